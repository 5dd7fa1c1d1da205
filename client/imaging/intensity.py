"""Intensity steps as pure functions: rounding, windows, resegmentation, z-score, and the masks they are taken over.

Arrays are (D, H, W). ROIs and masks are bool and lie on the grid of the image; images stay float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.volume import FloatArray, Volume

Mask = npt.NDArray[np.bool_]

OTSU_BINS = 256
"""Bins of the histogram in which the threshold between air and body is sought."""

AIR_PERCENTILE = 99.5
"""Intensities above this percentile count as it: a few bright voxels do not squeeze the histogram."""

AIR_KNEE = 0.01
"""Where the logarithmic scale bends, as a share of the range. Chosen on 26 patients of one collection (soft-tissue
sarcoma, CT, PET and MR of each), where body and tumour then lie above the threshold and the room's air below; no other
cohort has tested it. A study that knows a threshold, as -500 HU in CT, says it in ``body_above``."""


@dataclass(frozen=True)
class Location:
    """Mean and standard deviation (of the population, divided by n) of intensities."""

    mean: float
    std: float


def round_hu(image: Volume) -> Volume:
    """Intensities rounded to integers, halves to even: Hounsfield units are integers (IBSI 2.4)."""
    return image.with_array(np.rint(image.array))


def window(image: Volume, *, lower: float, upper: float) -> Volume:
    """Clip to ``[lower, upper]`` and scale that to ``[0, 1]``."""
    if not lower < upper:
        raise ValueError(f"a window needs lower < upper, got {lower} and {upper}")
    array = _floats(image)
    return image.with_array((np.clip(array, lower, upper) - array.dtype.type(lower)) / array.dtype.type(upper - lower))


def resegmentation_limits(
    values: FloatArray, *, lower: float | None = None, upper: float | None = None, n_sigma: float | None = None
) -> tuple[float, float]:
    """The lowest and highest intensity that stay, of an ROI's ``values`` (n_voxels,) (IBSI 2.6).

    Mean and standard deviation are those of all given values, not of those within the range.
    """
    low = -np.inf if lower is None else lower
    high = np.inf if upper is None else upper
    if n_sigma is not None:
        place = location(values)
        low, high = max(low, place.mean - n_sigma * place.std), min(high, place.mean + n_sigma * place.std)
    return float(low), float(high)


def resegment(
    image: Volume,
    roi: Volume,
    *,
    lower: float | None = None,
    upper: float | None = None,
    n_sigma: float | None = None,
) -> Volume:
    """The voxels of the ROI within `resegmentation_limits`, the limits among them. The result may be empty."""
    array, inside = _floats(image), _bools(roi)
    values = array[inside].astype(np.float64)
    low, high = resegmentation_limits(values, lower=lower, upper=upper, n_sigma=n_sigma)
    result = np.zeros_like(inside)
    result[inside] = (values >= low) & (values <= high)
    return roi.with_array(result)


def location(array: FloatArray, mask: Mask | None = None) -> Location:
    """Mean and standard deviation over ``mask`` (default: all voxels), summed in float64."""
    values = array.ravel() if mask is None else array[mask]
    if not values.size:
        raise ValueError("no voxels to take a mean of")
    return Location(float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)))


def rescale(image: Volume, *, offset: float, scale: float) -> Volume:
    """``(image - offset) / scale``, in the image's dtype."""
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    array = _floats(image)
    return image.with_array((array - array.dtype.type(offset)) / array.dtype.type(scale))


def zscore(image: Volume, mask: Mask | None = None) -> tuple[Volume, Location]:
    """Mean 0 and standard deviation 1 over ``mask`` (default: all voxels); a `ValueError` where all are equal."""
    found = location(_floats(image), mask)
    if found.std == 0:
        raise ValueError("all intensities are equal")
    return rescale(image, offset=found.mean, scale=found.std), found


def air_threshold(array: FloatArray) -> float:
    """The threshold between air and body: Otsu's (1979) on a logarithmic scale that starts at the minimum.

    On the plain scale fat stands as far from muscle in MR as muscle from air, and a hot lesion in PET as far from the
    body; the logarithm brings all tissue together. The threshold moves with any linear change of the intensities.
    """
    low, high = float(array.min()), float(np.percentile(array, AIR_PERCENTILE))
    if low == high:
        raise ValueError("nearly all intensities are equal")
    knee = AIR_KNEE * (high - low)
    scaled = np.log1p((np.minimum(array, high) - low) / knee)
    counts, edges = np.histogram(scaled, bins=OTSU_BINS)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sum_below = np.cumsum(counts * centres)[:-1]
    mean_below = sum_below / below  # the first bin holds the minimum, the last the maximum: neither side is empty
    mean_above = ((counts * centres).sum() - sum_below) / above
    best = edges[1:-1][np.argmax(below * above * (mean_below - mean_above) ** 2)]
    return low + knee * float(np.expm1(best))


def body_mask(image: Volume, *, threshold: float | None = None) -> Mask:
    """The largest connected part above ``threshold`` (default: `air_threshold`), its holes filled slice by slice."""
    from scipy import ndimage  # here: scipy is loaded by studies that need it

    array = _floats(image)
    above = array > (air_threshold(array) if threshold is None else threshold)
    labels, n = ndimage.label(above)
    if n == 0:
        raise ValueError("no voxel lies above the threshold of the body")
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    body = labels == largest
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def _floats(image: Volume) -> FloatArray:
    if not np.issubdtype(image.array.dtype, np.floating):
        raise TypeError(f"intensities are floating numbers, got {image.array.dtype}")
    array: FloatArray = image.array  # type: ignore[assignment]  # the dtype was checked
    return array


def _bools(roi: Volume) -> Mask:
    if roi.array.dtype != np.bool_:
        raise TypeError(f"an ROI is bool, got {roi.array.dtype}")
    array: Mask = roi.array  # type: ignore[assignment]  # the dtype was checked
    return array
