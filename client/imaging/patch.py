"""The box around an ROI that an image model sees.

The box is aligned with the LPS axes and centred on the ROI's centre of mass, so scans of one patient in other frames
(PET and MR) meet where the lesion is, and an oblique scan gives the same box as its axis-aligned copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates

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
    centre = image.affine[:3, :3] @ np.argwhere(roi.array).mean(axis=0) + image.affine[:3, 3]
    offsets = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*offsets, indexing="ij")
    world = np.stack([x, y, z]).reshape(3, -1) + centre[:, None]
    index = np.linalg.solve(image.affine[:3, :3], world - image.affine[:3, 3][:, None])
    # row k of the inverse says how many voxels of axis k one patch voxel spans; its length does not feel a rotation
    per_axis = np.linalg.norm(np.linalg.inv(image.affine[:3, :3])[:, ::-1] * np.asarray(spacing_mm), axis=1)
    sigma = np.where(per_axis > 1, 0.5 * np.sqrt(np.maximum(per_axis**2 - 1, 0)), 0.0)
    low, window = _window(index, sigma, image.shape)
    local = index - low[:, None]
    smooth = gaussian_filter(image.array[window].astype(np.float64), sigma, mode="nearest")
    share = gaussian_filter(roi.array[window].astype(np.float64), sigma, mode="constant")
    intensities = map_coordinates(smooth, local, order=1, mode="nearest").reshape(tuple(shape))
    inside = map_coordinates(share, local, order=1, mode="constant").reshape(tuple(shape))
    return intensities.astype(np.float32), inside.astype(np.float32)


def _window(
    index: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64], shape: Sequence[int]
) -> tuple[npt.NDArray[np.float64], tuple[slice, ...]]:
    """The part of the image that the box and its smoothing touch: its first voxel and its slices."""
    margin = np.ceil(4 * sigma) + 1
    low = np.clip(np.floor(index.min(axis=1) - margin), 0, np.asarray(shape) - 1)
    high = np.clip(np.ceil(index.max(axis=1) + margin) + 1, low + 1, shape)
    return low, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
