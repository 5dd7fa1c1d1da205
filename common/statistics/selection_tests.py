"""Univariate ranking by a test of each feature between outcome classes: Welch, analysis of variance, Mann-Whitney."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix
from common.statistics.moments import Moments, grouped_moments
from common.statistics.procedure import Procedure
from common.statistics.quantiles import balanced_edges, histogram_counts
from common.statistics.ranking import Ranking

RANK_BINS = 256
"""Agreed bins of the Mann-Whitney statistic: its error bound falls with their number."""


def welch(names: Sequence[str], classes: Sequence[str]) -> Procedure[Ranking]:
    """Welch's t of each feature between two classes, ranked by |t|; p-values with Welch-Satterthwaite freedom."""
    if len(classes) != 2:
        raise StatisticError(f"Welch's test compares two classes, got {len(classes)}; use analysis of variance")
    return welch_of((yield from grouped_moments(names, by="class", groups=classes)), classes)


def welch_of(groups: Sequence[Moments], classes: Sequence[str]) -> Ranking:
    """As `welch`, from the moments of each class."""
    names = groups[0].names
    _check(groups, classes)
    parts = [group.variance() / group.present for group in groups]
    difference, spread = groups[1].mean - groups[0].mean, parts[0] + parts[1]
    _refuse_constant(names, spread)
    t = difference / np.sqrt(spread)
    freedom = spread**2 / sum(part**2 / (group.present - 1) for part, group in zip(parts, groups, strict=True))
    return Ranking.of("Welch t", names, np.abs(t), 2 * scipy.special.stdtr(freedom, -np.abs(t)))


def analysis_of_variance(names: Sequence[str], classes: Sequence[str]) -> Procedure[Ranking]:
    """One-way F of each feature between the classes."""
    return variance_of((yield from grouped_moments(names, by="class", groups=classes)), classes)


def variance_of(groups: Sequence[Moments], classes: Sequence[str]) -> Ranking:
    """As `analysis_of_variance`, from the moments of each class."""
    names = groups[0].names
    _check(groups, classes)
    between, within, n = between_and_within(groups)
    _refuse_constant(names, within)
    freedom = len(groups) - 1, n - len(groups)
    f = (between / freedom[0]) / (within / freedom[1])
    return Ranking.of("ANOVA F", names, f, np.asarray(scipy.special.fdtrc(*freedom, f), dtype=np.float64))


def between_and_within(groups: Sequence[Moments]) -> tuple[Matrix, Matrix, Matrix]:
    """Sums of squares between and within groups, and the number of present cases, (n_features,) each."""
    present = np.array([group.present for group in groups], dtype=np.float64)
    means = np.array([group.mean for group in groups])
    n = present.sum(axis=0)
    overall = (present * means).sum(axis=0) / np.maximum(n, 1)
    between: Matrix = (present * (means - overall) ** 2).sum(axis=0)
    return between, np.array([group.m2 for group in groups]).sum(axis=0), n


@dataclass(frozen=True, eq=False)
class MannWhitney:
    """Mann-Whitney statistics from agreed bins, in the order of ``names``.

    Parameters
    ----------
    u : ndarray of float64, shape (n_features,)
        Pairs in which the case of class 1 has the larger value, ties half.
    bound : ndarray of float64, shape (n_features,)
        The exact statistic lies within ``u`` +- ``bound``: half the pairs that share a bin. Ties of equal values are
        in there too, so features with few distinct values are more exact than this says.
    p_value : ndarray of float64, shape (n_features,)
        Two-sided, normal approximation with tie correction.
    ranking : Ranking
        By the distance of the area under the ROC curve, u / (n0 n1), from a half.
    """

    names: tuple[str, ...]
    u: Matrix
    bound: Matrix
    p_value: Matrix
    ranking: Ranking


def mann_whitney(names: Sequence[str], classes: Sequence[str], *, n_bins: int = RANK_BINS) -> Procedure[MannWhitney]:
    """Mann-Whitney statistic of each feature between two classes, through ranks on agreed bins.

    The bins hold about equally many cases, so the error bound is about ``n0 n1 / (2 n_bins)``.
    """
    if len(classes) != 2:
        raise StatisticError(f"Mann-Whitney compares two classes, got {len(classes)}")
    names = tuple(names)
    edges = yield from balanced_edges(names, n_bins)
    counts = yield from histogram_counts(names, edges, by="class", groups=classes)
    return mann_whitney_of(names, counts, classes)


def mann_whitney_of(names: tuple[str, ...], counts: Indices, classes: Sequence[str]) -> MannWhitney:
    """As `mann_whitney`, from counts (2, n_features, n_bins) by class and bin."""
    zero, one = counts[0].astype(np.float64), counts[1].astype(np.float64)
    n0, n1 = zero.sum(axis=1), one.sum(axis=1)
    if (np.minimum(n0, n1) == 0).any():
        raise StatisticError(
            f"a class without cases: {list(zip(classes, (int(n0.min()), int(n1.min())), strict=True))}"
        )
    below = np.cumsum(zero, axis=1) - zero
    u = (one * (below + zero / 2)).sum(axis=1)
    together, n = zero + one, n0 + n1
    ties = (together**3 - together).sum(axis=1) / (n * (n - 1))
    spread = np.sqrt(n0 * n1 / 12 * np.maximum(n + 1 - ties, 0.0))
    distance = np.abs(u - n0 * n1 / 2)
    z = np.where(spread > 0, np.maximum(distance - 0.5, 0.0) / np.where(spread > 0, spread, 1.0), 0.0)
    p_value = np.minimum(2 * scipy.special.ndtr(-z), 1.0)
    ranking = Ranking.of("Mann-Whitney", names, distance / (n0 * n1), p_value)
    return MannWhitney(names, u, (zero * one).sum(axis=1) / 2, p_value, ranking)


def _check(groups: Sequence[Moments], classes: Sequence[str]) -> None:
    short = [
        f"{name} ({group.present.min()})"
        for name, group in zip(classes, groups, strict=True)
        if group.present.min() < 2
    ]
    if short:
        raise StatisticError(f"classes with fewer than 2 cases of some feature: {', '.join(short)}")


def _refuse_constant(names: Sequence[str], spread: Matrix) -> None:
    flat = [name for name, value in zip(names, spread, strict=True) if value <= 0.0]
    if flat:
        raise StatisticError(f"no variation within classes: {', '.join(flat[:5])}; filter by variance first")
