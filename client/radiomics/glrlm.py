"""Grey level run length matrices and their features (IBSI reference manual 3.7; Galloway 1975)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel
from client.radiomics.discretise import GreyLevels
from client.radiomics.emphasis import emphases
from client.radiomics.neighbourhood import Direction, steps

FEATURES = (
    "sre", "lre", "lgre", "hgre", "srlge", "srhge", "lrlge", "lrhge", "glnu", "glnu_norm", "rlnu", "rlnu_norm",
    "r_perc", "gl_var", "rl_var", "rl_entr",
)  # fmt: skip

Matrix = npt.NDArray[np.int64]


def run_lengths(grey: GreyLevels, directions: tuple[Direction, ...], *, slice_number: int | None = None) -> Matrix:
    """Count runs by direction, level and length.

    Returns
    -------
    ndarray of int64, shape (n_directions, n, longest)
        Column ``k`` holds runs of ``k + 1`` voxels.
    """
    plane = grey.index.shape[1] * grey.index.shape[2]
    first = 1 if slice_number is None else slice_number + 1
    last = grey.index.shape[0] - 1 if slice_number is None else slice_number + 2
    matrix = np.zeros((len(directions), len(grey.levels), max(grey.index.shape) - 2), dtype=np.int64)
    _count_runs(grey.index.ravel(), first * plane, last * plane, steps(grey, directions), matrix)
    return matrix


def run_features(matrix: Matrix, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 16 features of a run length matrix (n, longest), in the order of ``FEATURES``; NaN where it is empty."""
    lengths = np.arange(1, matrix.shape[1] + 1, dtype=np.float64)
    n_voxels = float(matrix.sum(axis=0) @ lengths)
    values: npt.NDArray[np.float64] = emphases(matrix, levels, lengths, n_voxels)[:16]
    return values


def single_lines(grey: GreyLevels, direction: Direction) -> bool:
    """True where no line of the direction meets two voxels of the ROI: pyradiomics leaves such a direction out."""
    voxels = np.argwhere(grey.index)
    axis = next(number for number, step in enumerate(direction) if step)
    along = voxels[:, axis] * direction[axis]
    starts = voxels - along[:, None] * np.array(direction)
    return len(np.unique(starts, axis=0)) == len(voxels)


@kernel
def _count_runs(
    index: npt.NDArray[np.uint16], start: int, stop: int, offsets: npt.NDArray[np.int64], matrix: Matrix
) -> None:
    for t in range(len(offsets)):
        step = offsets[t]
        for i in range(start, stop):
            v = index[i]
            if v == 0 or index[i - step] == v:
                continue
            length = 1
            j = i + step
            while index[j] == v:
                length += 1
                j += step
            matrix[t, v - 1, length - 1] += 1
