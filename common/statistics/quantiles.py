"""Histograms and quantiles from counts up to agreed edges, with the bound on their error; median and mode imputation.

No minimum or maximum leaves a site: a quantile is bracketed from mean and standard deviation by Cantelli's inequality,
which holds for every distribution, and the bracket is then cut into pieces by counting. Under the small-cell rule each
site's counts are off by at most half its minimum at each edge; a quantile's *rank* is off by at most their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import ALL_CASES, Grouping, Indices, Matrix, columns, group_rows
from common.statistics.moments import Imputer, Moments, moments
from common.statistics.procedure import Cohort, Procedure, Sums

PIECES = 32
"""Cuts of a bracket a round."""

RESOLUTION = 1e-3
"""Half-width of a quantile's bracket, in standard deviations, at which refinement stops: finer would tell of cases."""

MAX_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class CountQuery:
    """Present values up to each edge (value <= edge), for each group and feature, and their number as the last entry.

    Parameters
    ----------
    names, by, groups
        As in `common.statistics.moments.MomentQuery`.
    edges : ndarray of float64, shape (n_features, n_edges)
        Increasing along the last axis.
    """

    kind: ClassVar[str] = "counts"
    cumulative: ClassVar[tuple[str, ...]] = ("counts",)
    names: tuple[str, ...]
    by: str
    groups: tuple[str, ...]
    edges: Matrix

    def __post_init__(self) -> None:
        if self.edges.ndim != 2 or len(self.edges) != len(self.names) or not self.edges.shape[1]:
            raise ValueError(f"edges {self.edges.shape} do not fit {len(self.names)} features")
        if (np.diff(self.edges, axis=1) < 0).any():
            raise ValueError("edges must not decrease")

    def summarise(self, cohort: Cohort) -> Sums:
        values = columns(cohort.table, self.names)
        rows = group_rows(cohort, self.by, self.groups)
        counts = np.empty((len(self.groups), len(self.names), self.edges.shape[1] + 1), dtype=np.int64)
        for g in range(len(self.groups)):
            ordered = np.sort(values[rows == g], axis=0)  # missing values sort last
            counts[g, :, -1] = (~np.isnan(ordered)).sum(axis=0)
            for j, edges in enumerate(self.edges):
                counts[g, j, :-1] = np.searchsorted(ordered[: counts[g, j, -1], j], edges, side="right")
        return {"counts": counts}

    def case_counts(self, cohort: Cohort) -> Indices:
        present = ~np.isnan(columns(cohort.table, self.names))
        rows = group_rows(cohort, self.by, self.groups)
        return np.stack(
            [
                sizes
                for g in range(len(self.groups))
                for sizes in (present[rows == g].sum(0), (~present[rows == g]).sum(0))
            ]
        ).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Quantiles of features: ``values`` (n_probabilities, n_features), each within ``half_width`` of the true one.

    The true one is the smallest value that at least the given share of the present values does not exceed
    (``numpy.quantile`` with ``method="inverted_cdf"``).
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    values: Matrix
    half_width: Matrix


def quantiles(
    names: Sequence[str], probabilities: Sequence[float], *, resolution: float = RESOLUTION
) -> Procedure[Quantiles]:
    """Quantiles over all cases of all sites, to ``resolution`` standard deviations of each feature.

    Raises
    ------
    StatisticError
        Where a feature has no present value, or a probability is not inside (0, 1).
    """
    names, wanted = tuple(names), np.array(probabilities, dtype=np.float64)
    if not ((wanted > 0) & (wanted < 1)).all():
        raise StatisticError(f"probabilities must lie inside (0, 1), got {list(probabilities)}")
    learned = (yield from moments(names)).require_present()
    low, high = _cantelli(learned, wanted)
    target = np.ceil(wanted[None, :] * learned.present[:, None] * (1 - 1e-12)).astype(np.int64)
    spread = np.sqrt(learned.m2 / learned.present)[:, None]
    for _ in range(MAX_ROUNDS):
        if ((high - low) / 2 <= np.maximum(resolution * spread, _rounding(learned)[:, None])).all():
            break
        steps = np.arange(1, PIECES + 1) / PIECES
        cuts = low[:, :, None] + (high - low)[:, :, None] * steps
        flat = cuts.reshape(len(names), -1)
        order = np.argsort(flat, axis=1, kind="stable")
        sums = yield CountQuery(names, "all", ALL_CASES, np.take_along_axis(flat, order, axis=1))
        counts = np.empty(flat.shape, dtype=np.int64)
        np.put_along_axis(counts, order, sums["counts"][0, :, :-1], axis=1)
        reached = counts.reshape(cuts.shape) >= target[:, :, None]
        first = np.where(reached.any(axis=2), reached.argmax(axis=2), PIECES - 1)
        width = (high - low) / PIECES
        low, high = low + width * first, low + width * (first + 1)
    return Quantiles(names, tuple(float(p) for p in wanted), (low + high).T / 2, (high - low).T / 2)


def histogram_counts(names: Sequence[str], edges: Matrix, *, by: Grouping, groups: Sequence[str]) -> Procedure[Indices]:
    """Counts between agreed edges, (n_groups, n_features, n_edges + 1): the first and last bins are open."""
    sums = yield CountQuery(tuple(names), by, tuple(groups), edges)
    return np.diff(sums["counts"], axis=2, prepend=0)


def balanced_edges(names: Sequence[str], n_bins: int) -> Procedure[Matrix]:
    """Edges (n_features, n_bins - 1) of bins that hold about equally many cases: agreed bins for ranks and information.

    Equal-width counts over the Cantelli range, then twice edges at the interpolated quantiles of the counts before.
    """
    if n_bins < 2:
        raise StatisticError(f"at least 2 bins, got {n_bins}")
    names = tuple(names)
    learned = (yield from moments(names)).require_present()
    low, high = _cantelli(learned, np.array([0.5 / n_bins, 1 - 0.5 / n_bins]))
    outer = np.stack([low[:, 0], high[:, 1]], axis=1)
    grid = outer[:, :1] + (outer[:, 1:] - outer[:, :1]) * np.linspace(0, 1, 4 * n_bins)
    shares = np.arange(1, n_bins) / n_bins
    for final in (False, True):
        sums = yield CountQuery(names, "all", ALL_CASES, grid)
        counts = sums["counts"][0]
        wanted = shares if final else np.linspace(0, 1, 4 * n_bins)
        grid = np.stack([np.interp(wanted * counts[j, -1], counts[j, :-1], grid[j]) for j in range(len(names))])
    return grid


def median_imputer(names: Sequence[str]) -> Procedure[Imputer]:
    """Fill missing values with the median over all sites, to `RESOLUTION` standard deviations."""
    learned = yield from quantiles(names, (0.5,))
    return Imputer(learned.names, learned.values[0])


def mode_imputer(names: Sequence[str], levels: Sequence[float]) -> Procedure[Imputer]:
    """Fill missing values with the most frequent of the agreed ``levels`` (the smallest of several)."""
    ordered = np.array(sorted(levels), dtype=np.float64)
    edges = np.tile(ordered, (len(names), 1))
    counts = yield from histogram_counts(names, edges, by="all", groups=ALL_CASES)
    of_levels = counts[0, :, :-1]
    if (of_levels.sum(axis=1) == 0).any():
        raise StatisticError(f"no case has one of the levels {ordered.tolist()} in every one of {', '.join(names)}")
    return Imputer(tuple(names), ordered[of_levels.argmax(axis=1)])


def _cantelli(learned: Moments, probabilities: Matrix) -> tuple[Matrix, Matrix]:
    """Brackets (n_features, n_probabilities) that hold the quantiles of any distribution with these moments."""
    spread = np.sqrt(learned.m2 / learned.present)[:, None]
    margin = _rounding(learned)[:, None]
    low = learned.mean[:, None] - spread * np.sqrt((1 - probabilities) / probabilities) - margin
    high = learned.mean[:, None] + spread * np.sqrt(probabilities / (1 - probabilities)) + margin
    return low, high


def _rounding(learned: Moments) -> Matrix:
    """Size of rounding errors of each feature's values."""
    return 1e-12 * (np.abs(learned.mean) + np.sqrt(learned.m2 / learned.present)) + np.finfo(np.float64).tiny
