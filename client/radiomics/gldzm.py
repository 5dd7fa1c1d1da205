"""Distances from the border of the ROI, for grey level distance zone matrices (IBSI reference manual 3.9).

The distance counts steps over faces (edges in a slice) to the first voxel outside the *morphological* ROI; beyond the
image is outside. The features are those of the size zone matrix with the zone's smallest distance in place of its size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel

FEATURES = (
    "sde", "lde", "lgze", "hgze", "sdlge", "sdhge", "ldlge", "ldhge", "glnu", "glnu_norm", "zdnu", "zdnu_norm",
    "z_perc", "gl_var", "zd_var", "zd_entr",
)  # fmt: skip


def border_distances(roi: npt.NDArray[np.bool_], *, in_slice: bool) -> npt.NDArray[np.int32]:
    """City-block distance of each voxel from outside, 1 at the border, padded by one voxel.

    Parameters
    ----------
    roi : ndarray of bool, shape (D, H, W)
        The morphological ROI, not resegmented.
    in_slice : bool
        Steps stay in the slice (2D and 2.5D).

    Returns
    -------
    ndarray of int32, shape (D + 2, H + 2, W + 2)
    """
    distance = np.zeros(tuple(n + 2 for n in roi.shape), dtype=np.int32)
    distance[1:-1, 1:-1, 1:-1] = np.where(roi, sum(roi.shape) + 3, 0)
    _, rows, columns = distance.shape
    offsets = [1, columns] if in_slice else [1, columns, rows * columns]
    _two_passes(distance.ravel(), np.array(offsets, dtype=np.int64))
    return distance


@kernel
def _two_passes(distance: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> None:
    n = len(distance)
    for i in range(n):
        if distance[i] != 0:
            for t in range(len(offsets)):
                distance[i] = min(distance[i], distance[i - offsets[t]] + 1)
    for i in range(n - 1, -1, -1):
        if distance[i] != 0:
            for t in range(len(offsets)):
                distance[i] = min(distance[i], distance[i + offsets[t]] + 1)
