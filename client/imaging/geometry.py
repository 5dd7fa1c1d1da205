"""Geometry without interpolation: one grid for all, orientation to LPS, crops, and how thick slices are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from client.imaging.resample import Region, bounding_box
from common.errors import CaseError, Code
from common.volume import Volume, grid_difference

WORLD_AXIS_OF_ARRAY = (2, 1, 0)
"""In LPS orientation the array axes D, H, W run along z, y, x."""


def on_grid_of(reference: Volume, other: Volume, *, case_id: str, name: str) -> Volume:
    """``other`` with the affine of ``reference``, where both are the same up to the tolerances of `common.volume`.

    So no later step sees the rounding by which a converter told two headers apart.

    Raises
    ------
    CaseError
        ``GRID_MISMATCH``, in words.
    """
    difference = grid_difference(reference, other)
    if difference:
        raise CaseError(case_id, f"grid of {name}: {difference}", code=Code.GRID_MISMATCH)
    return Volume(other.array, reference.affine)


def lps_axes(volume: Volume) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which array axis runs most along z, y and x of LPS, and which of them must be flipped to rise with it."""
    share = np.abs(volume.direction)  # rows: world axes; columns: array axes
    array_axis = max(permutations(range(3)), key=lambda axes: share[range(3), axes].sum())
    d, h, w = (array_axis[world] for world in WORLD_AXIS_OF_ARRAY)
    flips = [bool(volume.direction[world, array_axis[world]] < 0) for world in WORLD_AXIS_OF_ARRAY]
    return (d, h, w), (flips[0], flips[1], flips[2])


def reorient(volume: Volume, axes: Sequence[int], flips: Sequence[bool]) -> Volume:
    """Array axes in the order ``axes``, then flipped where ``flips`` says; every voxel keeps its place in the world."""
    array = np.transpose(volume.array, axes)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3][:, list(axes)]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array), affine)


def to_lps(volume: Volume) -> Volume:
    """Whole axes turned so that D, H, W run as near as may be along z, y, x of LPS. Nothing is interpolated."""
    return reorient(volume, *lps_axes(volume))


def margin_box(roi: Volume, *, margin_mm: float) -> Region:
    """The ROI's bounding box and ``margin_mm`` around it, within the grid."""
    box = bounding_box(roi.array)
    reach = [int(np.ceil(margin_mm / spacing - 1e-9)) for spacing in roi.spacing_mm]
    d0, h0, w0 = (max(a - r, 0) for a, r in zip(box.start, reach, strict=True))
    d1, h1, w1 = (min(b + r, n) for b, r, n in zip(box.stop, reach, roi.shape, strict=True))
    return Region((d0, h0, w0), (d1, h1, w1))


@dataclass(frozen=True)
class Stack:
    """How unequal a grid's spacings are: their largest ratio, and the array axis of the largest."""

    ratio: float
    axis: int

    def slice_wise(self, *, maximum_ratio: float) -> bool:
        """True where features should be taken slice by slice (2D), not over the volume (3D)."""
        return self.ratio > maximum_ratio


def stack_of(volume: Volume) -> Stack:
    spacing = volume.spacing_mm
    return Stack(ratio=max(spacing) / min(spacing), axis=int(np.argmax(spacing)))
