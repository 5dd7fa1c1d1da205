"""Ranges of columns that do not depend on any case: what a private sum is bounded by.

A study declares them, or learns them by private histograms; either way they stand in a `Bounds` step, first in the
table, which clips every case's values. What later steps do to a range follows from the steps alone (`limits_after`),
so the hospital that answers knows its sensitivity from the request, and trusts no other party with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from common.errors import PrivacyError, StatisticError
from common.statistics.columns import ALL_CASES, Indices, Matrix, columns, listed
from common.statistics.procedure import Procedure
from common.statistics.quantiles import CountQuery
from common.tables import FeatureTable

LARGEST_POWER, SMALLEST_POWER = 40, -30
"""Powers of two between which the size of a value is looked for, by factors of four: 1e-9 to 1e12."""

PIECES = 16
"""Bins of the second histogram, within the range that the first one found."""

TAIL = 0.01
"""Share of the cases at each end that a learned range leaves out."""

FALSE_ALARM = 0.01
"""Probability that noise alone makes any bin of a histogram count as filled."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """The columns of ``names``, each value moved into its range; missing stays missing.

    Parameters
    ----------
    names : tuple of str
    low, high : ndarray of float64, shape (n_columns,)
    """

    kind: ClassVar[str] = "bounds"
    names: tuple[str, ...]
    low: Matrix
    high: Matrix

    def __post_init__(self) -> None:
        if self.low.shape != (len(self.names),) or self.high.shape != (len(self.names),):
            raise ValueError(f"bounds {self.low.shape} and {self.high.shape} do not fit {len(self.names)} columns")
        if not (np.isfinite(self.low) & np.isfinite(self.high) & (self.low < self.high)).all():
            raise ValueError("each range must be finite and have a width")

    def apply(self, table: FeatureTable) -> FeatureTable:
        """The table's columns of this step, in its order, clipped."""
        clipped = np.clip(columns(table, self.names), self.low, self.high)
        return FeatureTable(clipped, self.names, table.case_ids)


@dataclass(frozen=True, eq=False)
class Limits:
    """Ranges of the columns of a table, and whether a value can be missing (after an imputer none can)."""

    names: tuple[str, ...]
    low: Matrix
    high: Matrix
    complete: bool = False

    def of(self, names: Sequence[str]) -> tuple[Matrix, Matrix]:
        """Lower and upper ends (len(names),).

        Raises
        ------
        PrivacyError
            Where a column has no range, by name.
        """
        position = {name: j for j, name in enumerate(self.names)}
        unknown = [name for name in names if name not in position]
        if unknown:
            raise PrivacyError(f"no range is declared of {listed(unknown, range(len(unknown)))}")
        chosen = [position[name] for name in names]
        return self.low[chosen], self.high[chosen]

    def keep(self, names: Sequence[str], *, complete: bool | None = None) -> Limits:
        low, high = self.of(names)
        return Limits(tuple(names), low, high, self.complete if complete is None else complete)

    def clip(self, table: FeatureTable) -> FeatureTable:
        """The table with those of its columns clipped that have a range."""
        known = [j for j, name in enumerate(table.names) if name in set(self.names)]
        low, high = self.of([table.names[j] for j in known])
        values = table.values.copy()
        values[:, known] = np.clip(values[:, known], low, high)
        return table.with_values(values)


def learned_bounds(names: Sequence[str], *, noise_std: float) -> Procedure[Bounds]:
    """Ranges that hold most values of each column, from two private histograms.

    The first has a bin for each sign and power of four, the second divides what the first found into `PIECES`. A few
    cases at each end are clipped, the more the smaller the cohort; a column that varies little about a large number
    gets a range about it.

    Parameters
    ----------
    noise_std : float
        Standard deviation of the noise in a merged bin: that of one hospital times the root of their number.

    Raises
    ------
    StatisticError
        Where no bin of a column stands out of the noise, by name: too few cases for this epsilon.
    """
    names = tuple(names)
    powers = 2.0 ** np.arange(SMALLEST_POWER, LARGEST_POWER + 1, 2)
    edges = np.concatenate([-powers[::-1], [0.0], powers])
    low, high = yield from _filled(names, np.tile(edges, (len(names), 1)), noise_std)
    pieces = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, PIECES + 1)
    sums = yield CountQuery(names, "all", ALL_CASES, pieces[:, 1:-1])
    bins = np.diff(sums["counts"][0], axis=1, prepend=0)
    rows = np.arange(len(names))
    first, last = _outside(bins, noise_std), _outside(bins[:, ::-1], noise_std)
    # both tails together leave at least one bin
    return Bounds(names, pieces[rows, first], pieces[rows, np.maximum(PIECES - last, first + 1)])


def _outside(bins: Matrix, noise_std: float) -> Indices:
    """How many bins from the start hold no more than a tail of the cases, as far as noise lets one tell."""
    n_summed = np.arange(1, bins.shape[1] + 1)
    allowed = TAIL * bins.sum(axis=1)[:, None] + noise_std * np.sqrt(n_summed)
    beyond = np.cumsum(bins, axis=1) > allowed
    found: Indices = np.where(beyond.any(axis=1), beyond.argmax(axis=1), bins.shape[1] - 1).astype(np.int64)
    return found


def _filled(names: tuple[str, ...], edges: Matrix, noise_std: float) -> Procedure[tuple[Matrix, Matrix]]:
    """From the first to the last bin (edge, edge] of each column that stands out of the noise; the open ends are not
    looked at.
    """
    sums = yield CountQuery(names, "all", ALL_CASES, edges)
    counts = np.diff(sums["counts"][0], axis=1)[:, : edges.shape[1] - 1]
    filled = counts > noise_std * float(-scipy.special.ndtri(FALSE_ALARM / counts.size))
    empty = np.flatnonzero(~filled.any(axis=1))
    if empty.size:
        raise StatisticError(
            f"no range stands out of the noise for {listed(names, empty)}: declare it, spend more, or add cases"
        )
    rows = np.arange(len(names))
    first = filled.argmax(axis=1)
    last = filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return edges[rows, first], edges[rows, last + 1]
