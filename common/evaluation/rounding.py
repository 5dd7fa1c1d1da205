"""Counts under the small-cell rule: running counts at levels that lie at least the minimum apart, and what follows.

As in `common.statistics.small_cell`, rounding is a fixed function of a site's true distribution, so asking again and
subtracting gives sizes of whole groups and never the count of a small cell. The levels divide the total (which leaves
anyway) evenly, where multiples of the minimum would leave a remainder far from where its cases lie.

Cases put at the middle of their group lose their spread, and a curve through them flatters the model. `redrawn` gives
it back from what may leave: where the levels are reached, and mean and standard deviation of the class, which are sums
over at least the minimum of cases. Measured on 4 sites with 40 cases and a minimum of 5, the merged AUC is then off by
0.005 (root mean square; with multiples of the minimum 0.014), a seventh of its standard error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.rng import generator

Counts = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

TAILS: Matrix = np.concatenate([[0.0], np.geomspace(1.0, 400.0, 60)])
"""Lengths, in bins, that the lowest and highest half group may be spread over."""


PAIRINGS = 81
"""Orders that are tried to fit a covariance."""


def levels(total: int, minimum: int) -> Counts:
    """The running counts that may be shown: 0 to ``total`` in steps of ``minimum`` to less than twice that."""
    n_steps = max(total // minimum, 1)
    return np.arange(n_steps + 1, dtype=np.int64) * total // n_steps


def rounded(running: Counts, *, minimum: int) -> Counts:
    """Running counts, each moved to the nearest level (of two the higher); the greatest, the total, stays exact."""
    total = int(running.max(initial=0))
    if minimum <= 1 or not total:
        return running
    steps = levels(total, minimum)
    passed = np.searchsorted(steps[:-1] + steps[1:], 2 * running, side="right")
    return np.asarray(steps[passed], dtype=np.int64)


def largest_error(total: int, minimum: int) -> int:
    """How far `rounded` and `redrawn` move a running count at most: by the cases of the largest group."""
    if minimum <= 1 or not total:
        return 0
    return int(np.diff(levels(total, minimum)).max())


def redrawn(counts: Counts, *, minimum: int) -> Counts:
    """A histogram (n_bins,) of as many cases with the same levels, and nearly the same mean and spread.

    Between the bins in which a level is reached cases lie evenly. Below the first and above the last of these bins the
    two half groups are spread evenly over lengths that fit the mean and standard deviation of all cases best.
    """
    total = int(counts.sum())
    if minimum <= 1 or not total:
        return counts
    steps = levels(total, minimum)
    middles = (steps[:-1] + steps[1:]) / 2
    reached = np.searchsorted(rounded(np.cumsum(counts), minimum=minimum), steps[1:], side="left").astype(np.float64)
    rank = np.arange(total) + 0.5
    place = np.interp(rank, middles, reached)
    lower, upper = rank < middles[0], rank > middles[-1]
    below = reached[0] - TAILS[:, None] * (middles[0] - rank[lower]) / middles[0]
    above = reached[-1] + TAILS[:, None] * (rank[upper] - middles[-1]) / (total - middles[-1])
    i, j = _best_tails(counts, place[~(lower | upper)], below, above)
    place[lower], place[upper] = below[i], above[j]
    bins = np.clip(np.round(place), 0, len(counts) - 1).astype(np.int64)
    return np.bincount(bins, minlength=len(counts)).astype(np.int64)


def redrawn_grid(rows: Counts, columns: Counts, *, shape: tuple[int, int], minimum: int) -> Counts:
    """Counts on a grid (``shape``) of as many cases, whose place (row, column) may leave in groups only.

    Cases are divided by column into blocks; within each the rows are `redrawn`, and so are the columns of all. Rows and
    columns of a block are paired so that their covariance is nearly that of the block's cases.

    Parameters
    ----------
    rows, columns : ndarray of int64, shape (n_cases,)
    """
    grid = np.zeros(shape, dtype=np.int64)
    total = len(rows)
    if minimum <= 1 or not total:
        np.add.at(grid, (rows, columns), 1)
        return grid
    order = np.lexsort((rows, columns))
    n_blocks = max(total // minimum, 1)
    ends = np.arange(n_blocks + 1) * total // n_blocks
    new_columns = _cases(redrawn(np.bincount(columns, minlength=shape[1]), minimum=minimum))
    for block in range(n_blocks):
        here = slice(int(ends[block]), int(ends[block + 1]))
        new_rows = _cases(redrawn(np.bincount(rows[order[here]], minlength=shape[0]), minimum=minimum))
        covariance = _covariance(rows[order[here]], columns[order[here]])
        np.add.at(grid, (_paired(new_rows, new_columns[here], covariance), new_columns[here]), 1)
    return grid


def _covariance(rows: Counts, columns: Counts) -> float:
    return float((rows - rows.mean()) @ (columns - columns.mean()))


def _paired(rows: Counts, columns: Counts, covariance: float) -> Counts:
    """The rows in the order, of some that range from falling to rising with the columns, that fits the covariance."""
    n = len(rows)
    rank = (np.arange(n) - (n - 1) / 2) / n
    noise = generator(0, "pairs", n).uniform(-0.5, 0.5, (PAIRINGS, n))
    share = np.linspace(-1.0, 1.0, PAIRINGS)[:, None]
    position = np.argsort(np.argsort(share * rank + (1 - np.abs(share)) * noise, axis=1), axis=1)
    ordered = np.sort(rows)[position]
    found = (ordered - ordered.mean()) @ (columns - columns.mean())
    return np.asarray(ordered[np.abs(found - covariance).argmin()])


def _cases(counts: Counts) -> Counts:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _best_tails(counts: Counts, inside: Matrix, below: Matrix, above: Matrix) -> tuple[int, int]:
    """Positions in `TAILS` of the lower and upper length that fit mean and standard deviation best."""
    bins, total = np.arange(len(counts)), counts.sum()
    mean = float(bins @ counts / total)
    spread = float(np.sqrt((bins - mean) ** 2 @ counts / total))
    first = (inside.sum() + below.sum(axis=1)[:, None] + above.sum(axis=1)) / total
    second = ((inside**2).sum() + (below**2).sum(axis=1)[:, None] + (above**2).sum(axis=1)) / total
    found = np.sqrt(np.maximum(second - first**2, 0.0))
    misfit = (first - mean) ** 2 + (found - spread) ** 2
    i, j = np.unravel_index(misfit.argmin(), misfit.shape)
    return int(i), int(j)
