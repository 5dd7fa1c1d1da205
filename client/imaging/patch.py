"""The box around an ROI that an image model sees.

The box is aligned with the LPS axes and centred on the ROI's centre of mass, so scans of one patient in other frames
(PET and MR) meet where the lesion is, and an oblique scan gives the same box as its axis-aligned copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.volume import Volume

Patch = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Beyond = Literal["nearest", "constant"]
"""What lies outside the image: its nearest voxel, or zero."""

AXIS_TOLERANCE = 1e-6
"""Voxels: an image axis whose share in another axis of the box stays below this from end to end runs along one of them.
Also how far from a voxel a point still counts as on it."""


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
    smooth = _smoothed(image.array[window], sigma, "nearest")
    share = _smoothed(roi.array[window], sigma, "constant")
    intensities = _interpolated(smooth, step, first - low, tuple(shape), beyond="nearest")
    inside = _interpolated(share, step, first - low, tuple(shape), beyond="constant")
    return intensities.astype(np.float32), inside.astype(np.float32)


def _window(
    corners: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64], shape: Sequence[int]
) -> tuple[npt.NDArray[np.float64], tuple[slice, ...]]:
    """The part of the image that a box with these corners, (3, 8), and its smoothing touch: first voxel and slices."""
    margin = np.ceil(4 * sigma) + 1
    low = np.clip(np.floor(corners.min(axis=1) - margin), 0, np.asarray(shape) - 1)
    high = np.clip(np.ceil(corners.max(axis=1) + margin) + 1, low + 1, shape)
    return low, tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _smoothed(array: npt.NDArray[np.generic], sigma: Array, beyond: Beyond) -> Array:
    """float64; untouched where no axis gets coarser."""
    values = array.astype(np.float64)
    if not sigma.any():
        return values
    from scipy.ndimage import gaussian_filter

    smooth: Array = gaussian_filter(values, sigma, mode=beyond)
    return smooth


def _interpolated(values: Array, step: Array, offset: Array, shape: tuple[int, ...], *, beyond: Beyond) -> Array:
    """Linear interpolation of ``values`` at ``offset + step @ index`` for every index of ``shape``."""
    axes = np.abs(step).argmax(axis=0)
    astray = step.copy()
    astray[axes, range(3)] = 0.0
    if len(set(axes.tolist())) == 3 and (np.abs(astray) @ np.asarray(shape)).max() < AXIS_TOLERANCE:
        # the box runs along the image's axes, as of most scans: one axis after the other, a tenth of the work
        found = values.transpose(axes)
        for axis, source in enumerate(axes):
            at = offset[source] + step[source, axis] * np.arange(shape[axis])
            found = _along(found, at, axis, beyond)
        return found
    from scipy.ndimage import affine_transform

    oblique: Array = affine_transform(values, step, offset=offset, output_shape=shape, order=1, mode=beyond)
    return oblique


def _along(values: Array, at: Array, axis: int, beyond: Beyond) -> Array:
    """Linear interpolation along one axis; on a voxel it is that voxel, whatever the last bits of ``at`` are."""
    last = values.shape[axis] - 1
    voxel = np.rint(at)
    at = np.where(np.abs(at - voxel) < AXIS_TOLERANCE, voxel, at)
    within = at.clip(0, last)
    low = np.floor(within).astype(np.int64)
    towards = _on_axis(within - low, axis)
    found: Array = values.take(low, axis)
    if towards.any():
        found *= 1 - towards
        found += values.take(np.minimum(low + 1, last), axis) * towards
    outside = at != within
    if beyond == "constant" and outside.any():
        found *= _on_axis(~outside, axis)
    return found


def _on_axis(values: npt.NDArray[np.generic], axis: int) -> Array:
    return np.expand_dims(values.astype(np.float64), tuple(other for other in range(3) if other != axis))
