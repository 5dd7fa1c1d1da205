"""From the pair of files to what the calculators read: checks, study grid, rounding, resegmentation, bounding box.

IBSI definitions work in double precision on a cut-out of the image; pyradiomics' definitions work on the image as it is
stored, because its single precision decides in which bin a voxel falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.imaging.intensity import resegment
from client.imaging.resample import Region, bounding_box, resample_image, resample_roi, roi_region
from client.radiomics import filters, spatial
from client.radiomics.filters import Scene
from client.radiomics.settings import RadiomicsSettings, Resampling
from common.errors import CaseError, Code
from common.volume import Volume, grid_difference

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]


POINTWISE = ("square", "squareroot", "logarithm", "exponential")
"""Filters that scale to the largest magnitude of the whole image."""

TIE_DECIMALS = 3
"""Interpolated intensities are rounded to this many decimals before they are rounded to integers: half-way between two
voxels, the last bit of the spacing of an oblique image must not decide."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on its grid, cut to the ROI.

    Parameters
    ----------
    scene : Scene
        The image around the ROI; its box is the bounding box of the morphological ROI.
    roi, intensity_roi : ndarray of bool
        The morphological and the resegmented ROI in the box.
    """

    scene: Scene
    roi: Mask
    intensity_roi: Mask

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.scene.spacing_mm

    @property
    def intensities(self) -> Floats:
        """The image in the box; integers as float64, so that no sum overflows."""
        box = self.scene.array[self.scene.box.slices]
        return box if box.dtype.kind == "f" else box.astype(np.float64)  # type: ignore[return-value]  # its kind is f

    def neighbourhood(self, margin_mm: float) -> tuple[Floats, Mask]:
        """The image in the box and around it as far as it goes, and the intensity ROI in that."""
        margins = [math.ceil(margin_mm / spacing) for spacing in self.spacing_mm]
        view, box = self.scene.around(margins)
        roi = np.zeros(view.shape, dtype=np.bool_)
        roi[box.slices] = self.intensity_roi
        return view, roi  # type: ignore[return-value]  # as above


def prepare(image: Volume, roi: Volume, settings: RadiomicsSettings, *, case_id: str) -> Prepared:
    """Check the pair, resample, round, resegment and cut; the errors are those of `extract`."""
    _check_pair(image, roi, case_id=case_id)
    if settings.definitions == "pyradiomics":
        grid_image, grid_roi = image, roi
    else:
        grid_image, grid_roi = _on_study_grid(image, roi, settings, case_id=case_id)
    box = bounding_box(grid_roi.array)
    _check_extent(grid_roi, box, settings, case_id=case_id)
    inside = grid_roi.crop(box.start, box.stop)
    cut = _exact(grid_image.crop(box.start, box.stop))
    if not np.isfinite(cut.array[inside.array]).all():
        raise CaseError(case_id, "voxels of the ROI are NaN or infinite", code=Code.VOXELS_NOT_FINITE)
    kept = _resegmented(cut, inside, settings, case_id=case_id)
    values = cut.array[kept]
    if values.min() == values.max():
        shown = f"all {values.size} voxels of the ROI have intensity {values[0]:g}"
        raise CaseError(case_id, shown, code=Code.INTENSITY_CONSTANT)
    if settings.discretisation.kind == "as_is" and values.min() < 0.5:
        shown = f"intensities from {values.min():g} on are no grey levels; those start at 1"
        raise CaseError(case_id, shown, code=Code.INTENSITY_OUT_OF_RANGE)
    magnitude = _magnitude(image) if any(chosen.kind in POINTWISE for chosen in settings.filters) else 0.0
    scene = Scene(grid_image.array, box, grid_image.spacing_mm, magnitude)
    return Prepared(scene, inside.array.astype(np.bool_), kept)


def _check_pair(image: Volume, roi: Volume, *, case_id: str) -> None:
    if image.array.dtype.kind not in "iuf" or roi.array.dtype != np.bool_:
        raise TypeError(f"expected real intensities and a bool ROI, got {image.array.dtype} and {roi.array.dtype}")
    difference = grid_difference(image, roi)
    if difference:
        raise CaseError(case_id, f"the ROI is not on the grid of the image: {difference}", code=Code.GRID_MISMATCH)
    if not roi.array.any():
        raise CaseError(case_id, "the ROI has no voxel", code=Code.ROI_EMPTY)


def _on_study_grid(image: Volume, roi: Volume, settings: RadiomicsSettings, *, case_id: str) -> tuple[Volume, Volume]:
    """The region of the study grid that features and filters need, in float64."""
    resampling = settings.resampling or Resampling(spacing_mm=(0.0, 0.0, 0.0), interpolation="nearest")
    spacing = resampling.spacing_dhw_mm
    final = [wanted or own for wanted, own in zip(spacing, roi.spacing_mm, strict=True)]
    region = roi_region(roi, spacing_mm=spacing, margin_mm=_margins_mm(settings, final))
    new_roi = roi
    if settings.resampling is None:
        new_roi = roi.crop(region.start, region.stop)
        new_image = image.crop(region.start, region.stop)
    else:
        new_roi = resample_roi(roi, spacing_mm=spacing, threshold=resampling.roi_threshold, region=region)
        order = {"nearest": 0, "linear": 1, "cubic": 3}[resampling.interpolation]
        new_image = resample_image(image, spacing_mm=spacing, order=order, region=region)  # type: ignore[arg-type]
    if not new_roi.array.any():
        raise CaseError(case_id, "the ROI is smaller than a voxel of the study grid", code=Code.ROI_TOO_SMALL)
    array = new_image.array.astype(np.float64)
    if settings.round_intensities:
        array = np.rint(np.round(array, TIE_DECIMALS))
    return Volume(array, new_image.affine), new_roi


def _margins_mm(settings: RadiomicsSettings, spacing_mm: Sequence[float]) -> list[float]:
    """How far around the ROI anything reads, along D, H, W."""
    margins = [[0.0, 0.0, 0.0], *(list(filters.reach_mm(chosen, spacing_mm)) for chosen in settings.filters)]
    if "loc" in settings.groups:
        margins.append([spatial.PEAK_RADIUS_MM] * 3)
    return [max(axis) for axis in zip(*margins, strict=True)]


def _check_extent(roi: Volume, box: Region, settings: RadiomicsSettings, *, case_id: str) -> None:
    n_voxels = int(np.count_nonzero(roi.array[box.slices]))
    if n_voxels < 2:
        raise CaseError(case_id, "the ROI has 1 voxel", code=Code.ROI_TOO_SMALL)
    if settings.definitions == "ibsi" and "morph" in settings.groups and min(box.shape) == 1:
        shown = " x ".join(map(str, box.shape))
        reason = f"the ROI spans {shown} voxels: its least axis has no length, so densities of form are undefined"
        raise CaseError(case_id, reason, code=Code.ONE_SLICE)


def _resegmented(image: Volume, roi: Volume, settings: RadiomicsSettings, *, case_id: str) -> Mask:
    limits = settings.resegmentation
    if limits is None:
        return roi.array.astype(np.bool_)
    kept: Mask = resegment(image, roi, lower=limits.lower, upper=limits.upper, n_sigma=limits.n_sigma).array.astype(
        np.bool_
    )
    n_voxels = int(np.count_nonzero(kept))
    if n_voxels < 2:
        reason = f"{n_voxels} voxels of the ROI lie in the range of resegmentation"
        raise CaseError(case_id, reason, code=Code.INTENSITY_OUT_OF_RANGE)
    return kept


def _exact(image: Volume) -> Volume:
    """Floats as they are, integers as float64: no sum can overflow."""
    return image if image.array.dtype.kind == "f" else image.with_array(image.array.astype(np.float64))


def _magnitude(image: Volume) -> float:
    """Largest absolute intensity; of the extremes, so that no integer overflows."""
    return max(abs(float(image.array.min())), abs(float(image.array.max())))
