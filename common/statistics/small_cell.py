"""Small-cell rule: no number that stands for fewer cases than a site's minimum leaves the site, nor can be derived.

Three ways, for the three kinds of answer:

- sums over a group of cases leave only where the group is empty or large enough (`release`); a query names its groups
  *and their complements* in ``case_counts``, so subtracting one answer from another never isolates a small group;
- counts up to an edge (histograms, ranks, quantiles) are rounded to multiples of the minimum (`round_cumulative`). The
  rounding is a fixed function of the site's true distribution, so asking again with finer edges and subtracting gives
  multiples of the minimum and never the count of a small cell; the error is at most half the minimum at each edge;
- tables of counts (subgroups) hide small cells and as many others as it takes that the margins do not give them away
  (`suppress`: complementary suppression, audited by linear programming).

What the rule does not claim: sums over a group that is large enough still depend on each case. That is what secure
aggregation and differential privacy are for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common.errors import Code, GateError
from common.statistics.columns import Indices, Matrix, case_words
from common.statistics.procedure import Cohort, Query, Sums

HIDDEN = -1
"""Stands in a released table for a count that stays at the site."""


def release(query: Query, cohort: Cohort, *, minimum_cases: int, withheld: Cohort | None = None) -> Sums:
    """What may leave of a site's answer to ``query``.

    Parameters
    ----------
    withheld : Cohort, optional
        The site's other cases (held out by the current fold), where the same question is or was answered for all of
        them together: the difference of both answers stands for these, so their groups must be large enough too.

    Raises
    ------
    GateError
        Code ``small_cell``, where some number would stand for 1 to ``minimum_cases`` - 1 cases: nothing leaves then.
    """
    counts = _counts(query, cohort)
    if withheld is not None:
        counts = np.concatenate([counts, _counts(query, withheld)])
    small = counts[(counts > 0) & (counts < minimum_cases)]
    if small.size:
        raise GateError(
            f"query {query.kind}: {small.size} of {counts.size} groups hold fewer than {minimum_cases} cases (smallest "
            f"{small.min()}); merge classes, batches or levels, or leave the site out of this statistic",
            code=Code.SMALL_CELL,
        )
    sums = query.summarise(cohort)
    return {
        name: round_cumulative(array, base=minimum_cases) if name in query.cumulative else array
        for name, array in sums.items()
    }


def _counts(query: Query, cohort: Cohort) -> Indices:
    return np.append(query.case_counts(cohort).ravel(), cohort.table.n_cases)


def round_cumulative(counts: Indices, *, base: int) -> Indices:
    """Counts up to increasing edges (last axis), each rounded to the nearest multiple of ``base``.

    The last entry is the number of cases of the group, which leaves anyway, and stays exact; no entry exceeds it.
    """
    total = counts[..., -1:]
    rounded = np.minimum((counts + base // 2) // base * base, total)
    rounded[..., -1:] = total
    return rounded.astype(np.int64)


def widen_missing(cohort: Cohort, *, minimum_cases: int, coded: Collection[str] = ()) -> Cohort:
    """The cohort with more values set to missing, where a few missing ones, or a rare level, would be a small cell.

    A feature that 99 of 100 cases have gives the last one away by subtraction. So, before any statistic is taken, each
    feature's missing (and present) values within each class and batch are made 0 or at least ``minimum_cases`` by
    setting further values to missing, in an order drawn from the case ids. At most ``minimum_cases`` - 1 values are
    lost for each feature and group that is concerned.

    Parameters
    ----------
    coded : collection of str
        Columns that are 1 for the cases of one level of a category and 0 for others: a level of fewer cases within a
        group, or one that fewer do not have, is set to missing for these first. A sum over such a column is a count,
        and its products with others are rows of the cases that it counts.
    """
    values = cohort.table.values.copy()
    levels = [j for j, name in enumerate(cohort.table.names) if name in set(coded)]
    order = np.argsort(case_words(cohort, "widen"))
    changed = True
    while changed:
        changed = False
        for rows in _strata(cohort):
            changed |= _hide_rare(values, order[rows[order]], levels, minimum_cases)
            changed |= _widen_stratum(values, order[rows[order]], minimum_cases)
    return replace(cohort, table=cohort.table.with_values(values))


def _strata(cohort: Cohort) -> Iterator[npt.NDArray[np.bool_]]:
    """Row masks of all cases, of each class or event, of each batch."""
    yield np.ones(cohort.table.n_cases, dtype=bool)
    label = getattr(cohort.outcome, "labels", getattr(cohort.outcome, "event", None))
    if label is not None:
        yield from (label == value for value in np.unique(label))
    batch = np.asarray(cohort.batch)
    yield from (batch == name for name in np.unique(batch))


def _hide_rare(values: Matrix, rows: Indices, levels: Sequence[int], minimum: int) -> bool:
    """Set coded values that too few of ``rows`` have to missing in place; True where any was."""
    changed = False
    for j in levels:
        for value in (0.0, 1.0):
            having = rows[values[rows, j] == value]
            if 0 < len(having) < minimum <= len(rows):
                values[having, j] = np.nan
                changed = True
    return changed


def _widen_stratum(values: Matrix, rows: Indices, minimum: int) -> bool:
    """Set values to missing in place within ``rows``; True where any was."""
    present = ~np.isnan(values[rows])
    n_present = present.sum(axis=0)
    n_missing = len(rows) - n_present
    concerned = np.flatnonzero(((n_missing > 0) & (n_missing < minimum)) | ((n_present > 0) & (n_present < minimum)))
    changed = False
    for j in concerned:
        having = rows[present[:, j]]
        keep = len(having) - (minimum - n_missing[j]) if n_missing[j] < minimum else len(having)
        dropped = having if keep < minimum else having[keep:]
        if n_missing[j] == 0 and n_present[j] < minimum:
            continue  # the whole group is small: `release` refuses it whatever is missing
        values[dropped, j] = np.nan
        changed |= bool(dropped.size)
    return changed


@dataclass(frozen=True, eq=False)
class ReleasedTable:
    """A table of counts as it may leave; `HIDDEN` where a count or total stays.

    Parameters
    ----------
    counts : ndarray of int64, shape (n_rows, n_columns)
    row_totals, column_totals : ndarray of int64
    total : int
    """

    counts: Indices
    row_totals: Indices
    column_totals: Indices
    total: int

    def _flat(self) -> Indices:
        return np.concatenate([self.counts.ravel(), self.row_totals, self.column_totals, [self.total]])


def suppress(counts: Indices, *, minimum_cases: int) -> ReleasedTable:
    """Hide small counts and totals of a table, and others until none of them can be narrowed down.

    After this no hidden number can be narrowed to fewer than ``minimum_cases`` different values by anyone who knows
    the released table and that counts are not negative (see `feasible_range`). A whole table of fewer cases than the
    minimum is hidden altogether.

    Parameters
    ----------
    counts : ndarray of int64, shape (n_rows, n_columns)
        For example outcome classes by sex.
    """
    full = np.concatenate([counts.ravel(), counts.sum(axis=1), counts.sum(axis=0), [counts.sum()]]).astype(np.int64)
    hidden = (full > 0) & (full < minimum_cases)
    if hidden[-1]:
        return _released(np.full_like(full, HIDDEN), counts.shape)
    while True:
        table = _released(np.where(hidden, HIDDEN, full), counts.shape)
        exposed = [i for i in np.flatnonzero(hidden).tolist() if _width(table, i) < minimum_cases]
        candidates = np.flatnonzero(~hidden[:-1]).tolist()
        if not exposed or not candidates:
            return table
        related = [i for i in candidates if any(_share_a_line(i, j, counts.shape) for j in exposed)]
        pool = np.array(related or candidates)
        hidden[pool[np.argmin(full[pool] + np.where(full[pool] == 0, full[-1], 0))]] = True


def feasible_range(table: ReleasedTable, position: int) -> tuple[int, int]:
    """Smallest and largest value that an attacker must still hold possible for one number of a released table.

    ``position`` counts the cells row by row, then the row totals, then the column totals. The counts are the unknowns,
    every released number is an equation; both ends follow by linear programming.
    """
    from scipy.optimize import linprog  # here, because every start of a site would pay for it

    shape = table.counts.shape
    lines, published = _line_matrix(shape), table._flat()
    known = published != HIDDEN
    ends = []
    for sign in (1.0, -1.0):
        found = linprog(sign * lines[position], A_eq=lines[known], b_eq=published[known], bounds=(0, None))
        ends.append(sign * float(found.fun or 0.0) if found.success else -sign * np.inf)
    low = int(np.ceil(ends[0] - 1e-6))
    return low, int(np.floor(ends[1] + 1e-6)) if np.isfinite(ends[1]) else np.iinfo(np.int64).max


def _width(table: ReleasedTable, position: int) -> int:
    low, high = feasible_range(table, position)
    return high - low + 1


def _line_matrix(shape: tuple[int, ...]) -> Matrix:
    """Each number of a table (cells, row totals, column totals, total) as a sum of cells."""
    cells = np.eye(shape[0] * shape[1])
    grid = cells.reshape(*shape, -1)
    return np.vstack([cells, grid.sum(axis=1), grid.sum(axis=0), cells.sum(axis=0)[None, :]])


def _share_a_line(i: int, j: int, shape: tuple[int, ...]) -> bool:
    lines = _line_matrix(shape)
    n_cells = shape[0] * shape[1]
    totals = lines[n_cells:-1]
    touched = (totals @ lines[i] > 0) & (totals @ lines[j] > 0)
    return bool(touched.any())


def _released(flat: Indices, shape: tuple[int, ...]) -> ReleasedTable:
    n_cells = shape[0] * shape[1]
    return ReleasedTable(
        flat[:n_cells].reshape(shape), flat[n_cells : n_cells + shape[0]], flat[n_cells + shape[0] : -1], int(flat[-1])
    )
