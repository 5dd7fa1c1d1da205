"""Grey levels: intensities of an ROI in bins (IBSI reference manual 2.7), and the array that texture matrices read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel

Floats = npt.NDArray[np.floating]
Bins = npt.NDArray[np.int64]

MAX_LEVELS = 2048
"""More occupied levels than this are refused: a co-occurrence matrix would be larger than the image."""


class TooManyLevelsError(ValueError):
    """The bins are so narrow that no texture matrix is meaningful."""


@dataclass(frozen=True, eq=False)
class GreyLevels:
    """A discretised ROI.

    Parameters
    ----------
    index : ndarray of uint16, shape (D + 2, H + 2, W + 2)
        0 outside the ROI and on the border of one voxel; else 1 + the rank of the voxel's level.
    levels : ndarray of float64, shape (n,)
        The occupied grey levels in ascending order (integers from 1).
    n_grey : int
        Number of grey levels of the discretisation, occupied or not: the largest level.
    counts : ndarray of int64, shape (n,)
        Voxels of each occupied level.
    """

    index: npt.NDArray[np.uint16]
    levels: npt.NDArray[np.float64]
    n_grey: int
    counts: npt.NDArray[np.int64]

    @property
    def n_voxels(self) -> int:
        return int(self.counts.sum())


def fixed_bin_size(values: Floats, *, bin_width: float, lowest: float) -> Bins:
    """``floor((x - lowest) / width) + 1``, shape of ``values``; at least 1 (IBSI 2.7, "fixed bin size")."""
    bins = np.floor((values.astype(np.float64) - lowest) / bin_width).astype(np.int64) + 1
    limited: Bins = np.maximum(bins, 1)
    return limited


def fixed_bin_number(values: Floats, *, bin_count: int) -> Bins:
    """``floor(N (x - min) / (max - min)) + 1``, the maximum in bin N (IBSI 2.7, "fixed bin number")."""
    exact = values.astype(np.float64)
    low, high = exact.min(), exact.max()
    if low == high:
        return np.ones(values.shape, dtype=np.int64)
    bins: Bins = np.minimum(np.floor(bin_count * (exact - low) / (high - low)).astype(np.int64) + 1, bin_count)
    return bins


def pyradiomics_bin_width(values: Floats, *, bin_width: float) -> Bins:
    """Bins between multiples of ``bin_width``, the lowest occupied one is 1: as pyradiomics 3.0.1 counts.

    The edges are made in the dtype of ``values``, because pyradiomics does so and single precision decides ties.
    """
    low, high = values.min(), values.max()
    width = int(bin_width) if float(bin_width).is_integer() else bin_width
    start = low - (low % width)
    edges = np.arange(start, high + 2 * width, width)
    if len(edges) < 2:
        return np.ones(values.shape, dtype=np.int64)
    return _place(values.ravel(), edges).reshape(values.shape)


def pyradiomics_bin_count(values: Floats, *, bin_count: int) -> Bins:
    """``bin_count`` bins between minimum and maximum with numpy's edges: as pyradiomics 3.0.1 counts."""
    edges = np.histogram_bin_edges(values, bin_count)
    edges[-1] += 1
    return np.digitize(values, edges).astype(np.int64)


def grey_levels(roi: npt.NDArray[np.bool_], bins: Bins, *, n_grey: int | None = None) -> GreyLevels:
    """Spread the bins of the ROI's voxels (in C order, shape (n_voxels,)) over a padded array.

    Raises
    ------
    TooManyLevelsError
        More than ``MAX_LEVELS`` levels are occupied.
    """
    highest = int(bins.max())
    if highest > 1 << 24:
        raise TooManyLevelsError(f"bins up to {highest}; choose a larger bin width")
    counts = np.bincount(bins)
    occupied = np.flatnonzero(counts)
    if len(occupied) > MAX_LEVELS:
        raise TooManyLevelsError(f"{len(occupied)} grey levels, at most {MAX_LEVELS}; choose a larger bin width")
    rank = np.zeros(len(counts), dtype=np.uint16)
    rank[occupied] = np.arange(1, len(occupied) + 1)
    index = np.zeros(tuple(n + 2 for n in roi.shape), dtype=np.uint16)
    index[1:-1, 1:-1, 1:-1][roi] = rank[bins]
    return GreyLevels(index, occupied.astype(np.float64), n_grey or highest, counts[occupied])


@kernel
def _place(values: Floats, edges: Floats) -> Bins:
    """``numpy.digitize`` for evenly spaced edges: guess the bin, then compare with the very edges."""
    n = len(edges)
    step = (float(edges[n - 1]) - float(edges[0])) / (n - 1)
    bins = np.empty(len(values), np.int64)
    for i in range(len(values)):
        x = values[i]
        k = int((float(x) - float(edges[0])) / step)
        k = min(max(k, 0), n - 1)
        while k > 0 and x < edges[k]:
            k -= 1
        while k + 1 < n and x >= edges[k + 1]:
            k += 1
        bins[i] = k + 1
    return bins
