"""The box around an ROI that an image model sees.

The box is aligned with the LPS axes and centred on the ROI's centre of mass, so scans of one patient in other frames
(PET and MR) meet where the lesion is, and an oblique scan gives the same box as its axis-aligned copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, gaussian_filter

from common.volume import Volume

Patch = npt.NDArray[np.float32]


def patch_pair(image: Volume, roi: Volume, *, spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[Patch, Patch]:
    """Intensities and ROI share of the box, each float32 of ``shape``.

    Parameters
    ----------
    image, roi : Volume
        On one grid; ``roi`` is bool and not empty.
    spacing_mm, shape : sequences of 3
        Of the box, along D, H, W, which run along z, y, x of LPS.

    Returns
    -------
    intensities, share : ndarray of float32, ``shape``
        Linear interpolation; an axis that gets coarser is smoothed first, so that fine texture does not fold into
        coarse stripes. Beyond the image the nearest voxel is repeated and the ROI is 0.
    """
    to_index = np.linalg.inv(image.affine[:3, :3])
    centre = np.argwhere(roi.array).mean(axis=0)
    # column k: how many voxels of each image axis one patch voxel along axis k spans; D, H, W run along z, y, x
    step = to_index[:, ::-1] * np.asarray(spacing_mm)
    first = centre - step @ ((np.asarray(shape) - 1) / 2)
    corners = first[:, None] + step @ (np.indices((2, 2, 2)).reshape(3, -1) * (np.asarray(shape) - 1)[:, None])
    per_axis = np.linalg.norm(step, axis=1)  # its length does not feel a rotation
    sigma = np.where(per_axis > 1, 0.5 * np.sqrt(np.maximum(per_axis**2 - 1, 0)), 0.0)
    low, window = _window(corners, sigma, image.shape)
    smooth = gaussian_filter(image.array[window].astype(np.float64), sigma, mode="nearest")
    share = gaussian_filter(roi.array[window].astype(np.float64), sigma, mode="constant")
    box = {"offset": first - low, "output_shape": tuple(shape), "order": 1}
    intensities = affine_transform(smooth, step, mode="nearest", **box)
    inside = affine_transform(share, step, mode="constant", **box)
    return intensities.astype(np.float32), inside.astype(np.float32)


def _window(
    corners: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64], shape: Sequence[int]
) -> tuple[npt.NDArray[np.float64], tuple[slice, ...]]:
    """The part of the image that a box with these corners, (3, 8), and its smoothing touch: first voxel and slices."""
    margin = np.ceil(4 * sigma) + 1
    low = np.clip(np.floor(corners.min(axis=1) - margin), 0, np.asarray(shape) - 1)
    high = np.clip(np.ceil(corners.max(axis=1) + margin) + 1, low + 1, shape)
    return low, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
