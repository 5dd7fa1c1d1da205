"""Zones of equal grey level, grey level size zone matrices and their features (IBSI reference manual 3.8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel
from client.radiomics.discretise import GreyLevels
from client.radiomics.emphasis import emphases
from client.radiomics.neighbourhood import Direction, steps

FEATURES = (
    "sze", "lze", "lgze", "hgze", "szlge", "szhge", "lzlge", "lzhge", "glnu", "glnu_norm", "zsnu", "zsnu_norm",
    "z_perc", "gl_var", "zs_var", "zs_entr",
)  # fmt: skip

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Zones:
    """Connected voxels of one grey level: one entry a zone, arrays of shape (n_zones,).

    ``rank`` counts the levels from 0, ``size`` is in voxels, ``distance`` the smallest distance of a voxel of the zone
    from the border of the ROI, ``slice_number`` where the first voxel lies.
    """

    rank: Integers
    size: Integers
    distance: Integers
    slice_number: Integers

    def of_slice(self, slice_number: int) -> Zones:
        here = self.slice_number == slice_number
        return Zones(self.rank[here], self.size[here], self.distance[here], self.slice_number[here])


def find_zones(
    grey: GreyLevels, directions: tuple[Direction, ...], *, distances: npt.NDArray[np.int32] | None = None
) -> Zones:
    """Zones whose voxels touch in any of the directions (or their opposites).

    Parameters
    ----------
    distances : ndarray of int32, shape (D + 2, H + 2, W + 2), optional
        Distance from the border; without it, all zones get distance 0.
    """
    index = grey.index
    flat = np.zeros(1, dtype=np.int32) if distances is None else distances.ravel()
    if index.size >= 2**31:
        raise ValueError("an ROI of this extent is not supported: its bounding box has 2^31 voxels or more")
    parent = np.zeros(index.size, dtype=np.int32)
    rank, size, distance, first = _label(index.ravel(), steps(grey, directions), flat, parent)
    return Zones(rank, size, distance, first // (index.shape[1] * index.shape[2]) - 1)


def extent_features(
    rank: Integers, extent: Integers, levels: npt.NDArray[np.float64], *, n_voxels: int
) -> npt.NDArray[np.float64]:
    """The 16 features of the matrix that counts zones by level and extent; NaN where there are none."""
    if not len(rank):
        return np.full(16, np.nan)
    occupied, column = np.unique(extent, return_inverse=True)
    counts = np.bincount(rank * len(occupied) + column, minlength=len(levels) * len(occupied))
    values: npt.NDArray[np.float64] = emphases(
        counts.reshape(len(levels), len(occupied)), levels, occupied.astype(np.float64), float(n_voxels)
    )[:16]
    return values


@kernel
def _label(
    index: npt.NDArray[np.uint16],
    offsets: Integers,
    distances: npt.NDArray[np.int32],
    parent: npt.NDArray[np.int32],
) -> tuple[Integers, Integers, Integers, Integers]:
    """Union-find in one sweep: each voxel joins the zones of its neighbours that came before it."""
    n = len(index)
    n_zones = 0
    for i in range(n):
        v = index[i]
        if v == 0:
            continue
        root = i
        for t in range(len(offsets)):
            j = i - offsets[t] if offsets[t] > 0 else i + offsets[t]
            if index[j] != v:
                continue
            while parent[j] != j:
                parent[j] = parent[parent[j]]
                j = parent[j]
            if j < root:
                if root != i:
                    parent[root] = j
                    n_zones -= 1
                root = j
            elif j > root:
                parent[j] = root
                n_zones -= 1
        parent[i] = root
        if root == i:
            n_zones += 1
    last = -1
    rank = np.empty(n_zones, np.int64)
    size = np.zeros(n_zones, np.int64)
    distance = np.zeros(n_zones, np.int64)
    first = np.empty(n_zones, np.int64)
    with_distance = len(distances) > 1
    # a root comes before its zone's other voxels; from here on a root's parent is -1 - (number of the zone)
    for i in range(n):
        if index[i] == 0:
            continue
        if parent[i] == i:
            last += 1
            k = last
            parent[i] = -1 - k
            rank[k] = index[i] - 1
            first[k] = i
            distance[k] = distances[i] if with_distance else 0
        else:
            j = parent[i]
            while j >= 0 and parent[j] >= 0:
                j = parent[j]
            parent[i] = j
            k = -1 - parent[j]
            if with_distance:
                distance[k] = min(distance[k], distances[i])
        size[k] += 1
    return rank, size, distance, first
