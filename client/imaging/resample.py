"""Resampling to the IBSI grid (IBSI reference manual, section 2.4 "Interpolation"; doi 10.1148/radiol.2020191145).

The new grid has ``n' = ceil(n s / s')`` voxels an axis and shares its centre with the image; beyond the border the
nearest voxel is repeated. Axes are ``D, H, W``; spacings are in that order, in mm.

Interpolation is separable, so it is done axis by axis and slice by slice: memory beyond the result is one slice
(linear, nearest) or the coefficients of the wanted region (cubic). A *region* is a box of indices of the new grid; what
is computed for a region equals the same box cut from the whole result, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.volume import Volume

GRID_TOLERANCE = 1e-4
"""A last voxel that would hold less than this share of a voxel of the image is not made: headers round spacings."""

SAME_SPACING_MM = 1e-5
"""An axis whose spacing is this near the wanted one is kept: headers in single precision or decimal text."""

ROI_DECIMALS = 6
"""The interpolated ROI is rounded to this many decimals before the threshold, so that 0.5 - 1e-16 counts as 0.5."""

SPLINE_EDGE = 12
"""Voxels repeated beyond the border before the spline filter (as scipy.ndimage does for mode "nearest")."""

SPLINE_MARGIN = 48
"""Voxels around a region that enter the spline filter. Its memory fades by 0.268 a voxel: 28 reach the last bit."""

Order = Literal[0, 1, 3]
Box = tuple[int, int, int]
Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Region:
    """A box ``start <= index < stop`` of a grid, along D, H, W."""

    start: Box
    stop: Box

    def __post_init__(self) -> None:
        if any(a < 0 or b <= a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"a region is a box with voxels, got {self.start} to {self.stop}")

    @property
    def shape(self) -> Box:
        d, h, w = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return d, h, w

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        d, h, w = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return d, h, w


@dataclass(frozen=True)
class AxisGrid:
    """One axis of the new grid in voxels of the image: voxel ``i`` stands at ``first + i * step``."""

    n: int
    first: float
    step: float

    @property
    def unchanged(self) -> bool:
        return self.step == 1.0 and self.first == 0.0

    def coordinates(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        return self.first + np.arange(start, stop, dtype=np.float64) * self.step


def resampled_axes(volume: Volume, *, spacing_mm: Sequence[float]) -> tuple[AxisGrid, AxisGrid, AxisGrid]:
    """The IBSI grid of ``spacing_mm`` (D, H, W; 0 keeps an axis as it is) over a volume."""
    d, h, w = (_axis(n, s, target) for n, s, target in zip(volume.shape, volume.spacing_mm, spacing_mm, strict=True))
    return d, h, w


def resample_image(
    volume: Volume, *, spacing_mm: Sequence[float], order: Order, region: Region | None = None
) -> Volume:
    """Interpolate intensities.

    Parameters
    ----------
    volume : Volume
        Intensities, (D, H, W).
    spacing_mm : sequence of 3 floats
        New spacing along D, H, W; 0 keeps that axis.
    order : {0, 1, 3}
        Nearest voxel, linear, or cubic B-spline (as ``scipy.ndimage.map_coordinates(order=3, mode="nearest")``).
    region : Region, optional
        Box of the new grid to compute; default the whole grid.

    Returns
    -------
    Volume
        float64, or the volume's own dtype for order 0; on the new grid, cut to ``region``.
    """
    axes = resampled_axes(volume, spacing_mm=spacing_mm)
    box = region or Region((0, 0, 0), (axes[0].n, axes[1].n, axes[2].n))
    _require_inside(box, axes)
    taps = [
        _taps(axis, n, start, stop, order)
        for axis, n, start, stop in zip(axes, volume.shape, box.start, box.stop, strict=True)
    ]
    affine = _affine(volume, axes, box)
    if order == 0:
        index = np.ix_(*(indices[:, 0] for indices, _ in taps))
        return Volume(np.ascontiguousarray(volume.array[index]), affine)
    source = volume.array
    if order == 3:
        source, taps = _spline_coefficients(source, axes, taps)
    return Volume(_weighted(source, taps), affine)


def resample_roi(
    volume: Volume, *, spacing_mm: Sequence[float], threshold: float = 0.5, region: Region | None = None
) -> Volume:
    """Interpolate an ROI linearly and keep voxels with at least ``threshold`` of it.

    Parameters
    ----------
    volume : Volume
        bool, (D, H, W).
    spacing_mm : sequence of 3 floats
        New spacing along D, H, W; 0 keeps that axis.
    threshold : float
        Smallest share, in (0, 1], after rounding to 6 decimals.
    region : Region, optional
        Box of the new grid to compute; default the whole grid.

    Returns
    -------
    Volume
        bool, on the new grid, cut to ``region``. It may be empty where the ROI is smaller than a new voxel.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    axes = resampled_axes(volume, spacing_mm=spacing_mm)
    box = region or Region((0, 0, 0), (axes[0].n, axes[1].n, axes[2].n))
    _require_inside(box, axes)
    inside = np.zeros(box.shape, dtype=np.bool_)
    result = Volume(inside, _affine(volume, axes, box))
    if not volume.array.any():
        return result
    near = _overlap(roi_region(volume, spacing_mm=spacing_mm, margin_mm=0.0), box)
    if near is None:
        return result
    share = resample_image(volume, spacing_mm=spacing_mm, order=1, region=near).array
    place = tuple(slice(a - c, b - c) for a, b, c in zip(near.start, near.stop, box.start, strict=True))
    inside[place] = np.round(share.astype(np.float64), ROI_DECIMALS) >= threshold
    return result


def roi_region(roi: Volume, *, spacing_mm: Sequence[float], margin_mm: float | Sequence[float]) -> Region:
    """The box of the new grid that holds the ROI, one image voxel around it and a margin (one, or along D, H, W)."""
    box = bounding_box(roi.array)
    axes = resampled_axes(roi, spacing_mm=spacing_mm)
    margins = [margin_mm] * 3 if isinstance(margin_mm, (int, float)) else list(margin_mm)
    start, stop = [], []
    for axis, a, b, spacing, margin in zip(axes, box.start, box.stop, roi.spacing_mm, margins, strict=True):
        reach = 1.0 + margin / spacing
        first = math.floor((a - reach - axis.first) / axis.step)
        last = math.ceil((b - 1 + reach - axis.first) / axis.step)
        start.append(min(max(first, 0), axis.n - 1))
        stop.append(max(min(last + 1, axis.n), start[-1] + 1))
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def bounding_box(array: npt.NDArray[np.generic]) -> Region:
    """The smallest box that holds all true voxels; a `ValueError` where there are none."""
    start, stop = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(array.any(axis=others))
        if not hit.size:
            raise ValueError("an empty ROI has no bounding box")
        start.append(int(hit[0]))
        stop.append(int(hit[-1]) + 1)
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _axis(n: int, spacing: float, target: float) -> AxisGrid:
    if target < 0 or not math.isfinite(target):
        raise ValueError(f"spacing must be positive, or 0 to keep an axis, got {target}")
    if target == 0 or abs(target - spacing) <= SAME_SPACING_MM:
        return AxisGrid(n, 0.0, 1.0)
    step = target / spacing
    n_new = max(1, math.ceil(n / step - GRID_TOLERANCE))
    return AxisGrid(n_new, 0.5 * (n - 1) - 0.5 * (n_new - 1) * step, step)


def _require_inside(box: Region, axes: Sequence[AxisGrid]) -> None:
    if any(stop > axis.n for stop, axis in zip(box.stop, axes, strict=True)):
        raise ValueError(f"region to {box.stop} leaves the grid {tuple(axis.n for axis in axes)}")


def _affine(volume: Volume, axes: Sequence[AxisGrid], box: Region) -> npt.NDArray[np.float64]:
    first = np.array([axis.first + start * axis.step for axis, start in zip(axes, box.start, strict=True)])
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    affine[:3, :3] = volume.affine[:3, :3] * np.array([axis.step for axis in axes])
    return affine


def _taps(axis: AxisGrid, n: int, start: int, stop: int, order: Order) -> Taps:
    """Which image voxels (n', k) enter each new voxel of an axis, and with which weights (n', k).

    For order 3 the indices may leave the image by up to 2 and count spline coefficients.
    """
    x = axis.coordinates(start, stop)
    if axis.unchanged:
        return np.arange(start, stop)[:, None], np.ones((stop - start, 1))
    if order == 0:
        nearest = np.floor(x + 0.5).astype(np.int64).clip(0, n - 1)
        return nearest[:, None], np.ones((len(x), 1))
    if order == 1:
        x = x.clip(0, n - 1)
        low = np.minimum(np.floor(x).astype(np.int64), max(n - 2, 0))
        t = x - low
        return np.stack([low, np.minimum(low + 1, n - 1)], axis=1), np.stack([1 - t, t], axis=1)
    low = np.floor(x).astype(np.int64)
    t = x - low
    weights = [(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]
    return low[:, None] + np.arange(-1, 3), np.stack(weights, axis=1) / 6


def _spline_coefficients(
    array: npt.NDArray[np.generic], axes: Sequence[AxisGrid], taps: Sequence[Taps]
) -> tuple[npt.NDArray[np.float64], list[Taps]]:
    """Cubic B-spline coefficients around the voxels that ``taps`` name, and the taps counted from their corner."""
    from scipy.ndimage import spline_filter1d  # here: scipy is loaded by studies that need it

    pads, window, shifted = [], [], []
    for axis, n, (indices, weights) in zip(axes, array.shape, taps, strict=True):
        margin = 0 if axis.unchanged else SPLINE_MARGIN
        low, high = int(indices.min()) - margin, int(indices.max()) + 1 + margin
        edge = 0 if axis.unchanged else SPLINE_EDGE
        before = edge if low <= 0 else 0
        after = edge if high >= n else 0
        low, high = max(low, 0), min(high, n)
        pads.append((before, after))
        window.append(slice(low, high))
        shifted.append((indices - low + before, weights))
    coefficients = np.pad(array[tuple(window)].astype(np.float64), pads, mode="edge")
    for number, axis in enumerate(axes):
        if not axis.unchanged and coefficients.shape[number] > 1:
            spline_filter1d(coefficients, order=3, axis=number, output=coefficients, mode="nearest")
    return coefficients, shifted


def _weighted(array: npt.NDArray[np.generic], taps: Sequence[Taps]) -> npt.NDArray[np.float64]:
    """Weighted sums along D, then H, then W, one new slice at a time; only voxels that ``taps`` name are read."""
    (d_index, d_weight), *plane = taps
    (h_index, h_weight), (w_index, w_weight) = ((_from_zero(*axis)) for axis in plane)
    rows, columns = (slice(int(index.min()), int(index.max()) + 1) for index, _ in plane)
    out = np.empty((len(d_index), len(h_index), len(w_index)))
    for d in range(len(d_index)):
        slab = sum(array[i, rows, columns] * w for i, w in zip(d_index[d], d_weight[d], strict=True))
        slab = sum(slab[h_index[:, k]] * h_weight[:, k, None] for k in range(h_index.shape[1]))
        out[d] = sum(slab[:, w_index[:, k]] * w_weight[:, k] for k in range(w_index.shape[1]))
    return out


def _from_zero(indices: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Taps:
    return indices - indices.min(), weights


def _overlap(a: Region, b: Region) -> Region | None:
    start = [max(x, y) for x, y in zip(a.start, b.start, strict=True)]
    stop = [min(x, y) for x, y in zip(a.stop, b.stop, strict=True)]
    if any(high <= low for low, high in zip(start, stop, strict=True)):
        return None
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
