"""Ends of the groups of `common.statistics.case_groups`, compiled: loaded where cases move in groups."""

from __future__ import annotations

import numpy as np
from numba import njit

from common.statistics.columns import Indices, Matrix


@njit  # type: ignore[untyped-decorator]  # numba ships no types
def at_group_ends(ordered: Matrix, labels: Indices, positions: Indices, n_labels: int, size: int) -> Indices:
    """Move each position to the nearest end of a group; of two equally near ones to the lower.

    Parameters
    ----------
    ordered : ndarray of float64, shape (n_columns, n_rows)
        Rising values; equal values stay in one group.
    labels : ndarray of int64, shape (n_columns, n_rows)
    positions : ndarray of int64, shape (n_columns, n_edges)
    """
    n_columns, n_rows = ordered.shape
    moved = np.empty_like(positions)
    ends = np.zeros(n_rows + 1, dtype=np.int64)
    for c in range(n_columns):
        rest, since = np.zeros(n_labels, dtype=np.int64), np.zeros(n_labels, dtype=np.int64)
        for i in range(n_rows):
            rest[labels[c, i]] += 1
        n_ends = 1
        for i in range(n_rows - 1):
            since[labels[c, i]] += 1
            rest[labels[c, i]] -= 1
            whole = ordered[c, i + 1] > ordered[c, i]
            for k in range(n_labels):
                whole &= (since[k] == 0 or since[k] >= size) and (rest[k] == 0 or rest[k] >= size)
            if whole:
                ends[n_ends] = i + 1
                n_ends += 1
                since[:] = 0
        ends[n_ends] = n_rows
        at = 0
        for e in range(positions.shape[1]):
            while at < n_ends and ends[at + 1] <= positions[c, e]:
                at += 1
            nearer_up = at < n_ends and ends[at + 1] - positions[c, e] < positions[c, e] - ends[at]
            moved[c, e] = ends[at + 1] if nearer_up else ends[at]
    return moved
