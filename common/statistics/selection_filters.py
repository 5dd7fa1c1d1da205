"""Filters that do not look at the outcome: features that do not vary, and features that repeat another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix
from common.statistics.linear_sums import GramRowsQuery
from common.statistics.moments import Moments, moments
from common.statistics.procedure import Procedure

ROWS_AT_ONCE = 64


def varying(learned: Moments, *, minimum_variance: float = 0.0) -> tuple[str, ...]:
    """Names of the features whose variance (ddof 1) exceeds ``minimum_variance``; constant ones never pass."""
    passes = (learned.variance() > minimum_variance) & ~learned.constant
    return tuple(name for name, kept in zip(learned.names, passes, strict=True) if kept)


def correlations(learned: Moments, rows: Sequence[int]) -> Procedure[Matrix]:
    """Pearson correlation of some features with all, shape (len(rows), n_features).

    Raises
    ------
    StatisticError
        Where a feature is constant: its correlation is undefined.
    """
    if learned.constant.any():
        flat = [name for name, constant in zip(learned.names, learned.constant, strict=True) if constant]
        raise StatisticError(f"correlation with constant features is undefined: {', '.join(flat[:5])}")
    sums = yield GramRowsQuery(learned.names, tuple(int(j) for j in rows), 1, learned.mean)
    spread = np.sqrt(learned.m2)
    correlation: Matrix = sums["gram"][0] / (spread[list(rows), None] * spread[None, :])
    return correlation


def uncorrelated(names: Sequence[str], *, largest: float) -> Procedure[tuple[str, ...]]:
    """Keep each feature whose |correlation| with every feature kept before it is at most ``largest``.

    Parameters
    ----------
    names : sequence of str
        In order of preference (for example of a `Ranking`): of two that repeat one another the first stays.
    """
    if not 0 < largest < 1:
        raise StatisticError(f"the largest correlation must lie inside (0, 1), got {largest}")
    names = tuple(names)
    learned = yield from moments(names)
    undecided = np.ones(len(names), dtype=bool)
    kept: list[int] = []
    while undecided.any():
        block: Indices = np.flatnonzero(undecided)[:ROWS_AT_ONCE]
        correlation = yield from correlations(learned, block.tolist())
        for row, j in enumerate(block):
            if undecided[j]:
                kept.append(int(j))
                undecided &= np.abs(correlation[row]) <= largest
                undecided[j] = False
    return tuple(names[j] for j in kept)


def first_of_each(names: Sequence[str], correlation: Matrix, *, largest: float) -> tuple[str, ...]:
    """As `uncorrelated`, from the whole correlation matrix (n_features, n_features)."""
    undecided = np.ones(len(names), dtype=bool)
    kept: list[str] = []
    for j, name in enumerate(names):
        if undecided[j]:
            kept.append(name)
            undecided &= np.abs(correlation[j]) <= largest
    return tuple(kept)
