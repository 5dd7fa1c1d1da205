"""The features that run length, size zone, distance zone and dependence matrices share.

Each of these matrices counts elements by grey level ``i`` and by an extent ``j`` (length, size, distance, dependence).
IBSI reference manual 3.7 to 3.9 and 3.11 define the same sums on all of them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel

N_FEATURES = 17
"""Small, large extent; low, high level; small-low, small-high, large-low, large-high; level non-uniformity and its
normalised form; extent non-uniformity and its normalised form; percentage; variances; entropy; energy."""

Vector = npt.NDArray[np.float64]


@kernel
def emphases(matrix: npt.NDArray[np.int64], levels: Vector, extents: Vector, n_voxels: float) -> Vector:
    """The 17 sums of a matrix.

    Parameters
    ----------
    matrix : ndarray of int64, shape (n, m)
        Counts by level and extent.
    levels, extents : ndarray of float64, shapes (n,), (m,)
        Their values; positive.
    n_voxels : float
        What the percentage is taken of.

    Returns
    -------
    ndarray of float64, shape (17,)
        NaN where the matrix is empty.
    """
    out = np.full(17, np.nan)
    n, m = matrix.shape
    by_level = np.zeros(n)
    by_extent = np.zeros(m)
    total = 0.0
    for i in range(n):
        for j in range(m):
            c = matrix[i, j]
            if c != 0:
                by_level[i] += c
                by_extent[j] += c
                total += c
    if total == 0:
        return out
    out[:] = 0.0
    mean_level = 0.0
    mean_extent = 0.0
    for i in range(n):
        i2 = levels[i] * levels[i]
        out[2] += by_level[i] / i2
        out[3] += by_level[i] * i2
        out[8] += by_level[i] * by_level[i]
        mean_level += by_level[i] * levels[i] / total
    for j in range(m):
        j2 = extents[j] * extents[j]
        out[0] += by_extent[j] / j2
        out[1] += by_extent[j] * j2
        out[10] += by_extent[j] * by_extent[j]
        mean_extent += by_extent[j] * extents[j] / total
    for i in range(n):
        if by_level[i] == 0:
            continue
        i2 = levels[i] * levels[i]
        for j in range(m):
            c = matrix[i, j]
            if c != 0:
                j2 = extents[j] * extents[j]
                out[4] += c / (i2 * j2)
                out[5] += c * i2 / j2
                out[6] += c * j2 / i2
                out[7] += c * i2 * j2
                p = c / total
                out[15] -= p * math.log2(p)
                out[16] += p * p
    for k in range(8):
        out[k] /= total
    out[8] /= total
    out[9] = out[8] / total
    out[10] /= total
    out[11] = out[10] / total
    out[12] = total / n_voxels
    for i in range(n):
        out[13] += by_level[i] / total * (levels[i] - mean_level) ** 2
    for j in range(m):
        out[14] += by_extent[j] / total * (extents[j] - mean_extent) ** 2
    return out
