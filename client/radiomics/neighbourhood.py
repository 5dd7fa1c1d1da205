"""One sweep over the ROI that counts what three texture families need: neighbours at Chebyshev distance 1.

`Neighbours` holds the directional co-occurrence counts (GLCM), the dependence counts (NGLDM) and the grey tone
differences (NGTDM). A direction and its opposite are one; the 13 directions of a volume or the 4 of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel
from client.radiomics.discretise import GreyLevels

DIRECTIONS_2D: tuple[tuple[int, int, int], ...] = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
DIRECTIONS_3D: tuple[tuple[int, int, int], ...] = (
    *DIRECTIONS_2D,
    *((1, h, w) for h in (-1, 0, 1) for w in (-1, 0, 1)),
)

Direction = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Counts of one volume, or of one slice.

    Parameters
    ----------
    pairs : ndarray of uint32, shape (n_directions, n, n)
        Voxels of level i whose neighbour in the direction has level j; not symmetric.
    dependence : ndarray of int64, shape (n, 2 n_directions + 1)
        Voxels of level i with k neighbours of the same level.
    tone_difference : ndarray of float64, shape (n,)
        Sum over the voxels of level i of the distance to the mean level of their neighbours.
    with_neighbours : ndarray of int64, shape (n,)
        Voxels of level i with at least one neighbour in the ROI.
    """

    pairs: npt.NDArray[np.uint32]
    dependence: npt.NDArray[np.int64]
    tone_difference: npt.NDArray[np.float64]
    with_neighbours: npt.NDArray[np.int64]

    def __add__(self, other: Neighbours) -> Neighbours:
        return Neighbours(
            self.pairs + other.pairs,
            self.dependence + other.dependence,
            self.tone_difference + other.tone_difference,
            self.with_neighbours + other.with_neighbours,
        )


def steps(grey: GreyLevels, directions: tuple[Direction, ...]) -> npt.NDArray[np.int64]:
    """Distance in the flattened padded array of one step in each direction, shape (n_directions,)."""
    _, rows, columns = grey.index.shape
    return np.array([(d * rows + h) * columns + w for d, h, w in directions], dtype=np.int64)


def count_neighbours(
    grey: GreyLevels, directions: tuple[Direction, ...], *, slice_number: int | None = None
) -> Neighbours:
    """Sweep the whole ROI, or one slice of it (counted without the padding)."""
    n = len(grey.levels)
    plane = grey.index.shape[1] * grey.index.shape[2]
    first = 1 if slice_number is None else slice_number + 1
    last = grey.index.shape[0] - 1 if slice_number is None else slice_number + 2
    pairs = np.zeros((len(directions), n, n), dtype=np.uint32)
    dependence = np.zeros((n, 2 * len(directions) + 1), dtype=np.int64)
    tone = np.zeros(n)
    counted = np.zeros(n, dtype=np.int64)
    _sweep(
        grey.index.ravel(), first * plane, last * plane, steps(grey, directions), grey.levels,
        pairs, dependence, tone, counted,
    )  # fmt: skip
    return Neighbours(pairs, dependence, tone, counted)


@kernel
def _sweep(
    index: npt.NDArray[np.uint16],
    start: int,
    stop: int,
    offsets: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
    pairs: npt.NDArray[np.uint32],
    dependence: npt.NDArray[np.int64],
    tone: npt.NDArray[np.float64],
    counted: npt.NDArray[np.int64],
) -> None:
    n_offsets = len(offsets)
    for i in range(start, stop):
        v = index[i]
        if v == 0:
            continue
        n_same = 0
        n_near = 0
        total = 0.0
        for t in range(n_offsets):
            w = index[i + offsets[t]]
            if w != 0:
                pairs[t, v - 1, w - 1] += np.uint32(1)
                total += levels[w - 1]
                n_near += 1
                if w == v:
                    n_same += 1
            w = index[i - offsets[t]]
            if w != 0:
                total += levels[w - 1]
                n_near += 1
                if w == v:
                    n_same += 1
        dependence[v - 1, n_same] += 1
        if n_near > 0:
            counted[v - 1] += 1
            tone[v - 1] += abs(levels[v - 1] - total / n_near)
