"""The small-cell rule under attack: what left is all that the attacker knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import Code, GateError
from common.statistics.moments import MomentQuery
from common.statistics.small_cell import HIDDEN, feasible_range, release, round_cumulative, suppress, widen_missing
from tests.common.statistics.cohorts import cohort, take

NAMES = ("feature-000", "feature-001")


def class_query():
    return MomentQuery(NAMES, "class", ("class-0", "class-1"), np.zeros((2, 2)), 1)


def all_query():
    return MomentQuery(NAMES, "all", ("all",), np.zeros((1, 2)), 1)


def test_a_small_group_refuses_the_whole_answer():
    whole = cohort(40, 2)
    events = np.flatnonzero(whole.outcome.labels == 1)
    rest = np.flatnonzero(whole.outcome.labels == 0)
    with pytest.raises(GateError, match="smallest 3") as refused:
        release(class_query(), take(whole, np.concatenate([rest, events[:3]])), minimum_cases=5)
    assert refused.value.code is Code.SMALL_CELL
    release(class_query(), take(whole, rest), minimum_cases=5)
    release(class_query(), take(whole, np.concatenate([rest, events[:5]])), minimum_cases=5)


@pytest.mark.parametrize("n_ones", [1, 4, 5, 36, 39])
def test_a_rare_level_is_hidden_from_sums_that_would_count_it(n_ones):
    """One man among forty: the sum of the coded column is 1, its products with others are his row."""
    whole = cohort(40, 2)
    values = whole.table.values.copy()
    values[:, 0] = np.random.default_rng(n_ones).permutation(np.arange(40) < n_ones)
    whole = replace(whole, table=whole.table.with_values(values))
    wide = widen_missing(whole, minimum_cases=5, coded={NAMES[0]}).table.values
    strata = [np.ones(40, bool), *(whole.outcome.labels == label for label in (0, 1))]
    strata += [np.array(whole.batch) == batch for batch in set(whole.batch)]
    for rows in strata:
        for value in (0.0, 1.0):
            n = int((wide[rows, 0] == value).sum())
            assert n == 0 or n >= 5
        n_missing = int(np.isnan(wide[rows, 0]).sum())
        assert n_missing == 0 or n_missing >= 5
    assert np.array_equal(wide[:, 1], values[:, 1])
    known = ~np.isnan(wide[:, 0])
    assert np.array_equal(wide[known, 0], values[known, 0])
    uncoded = widen_missing(whole, minimum_cases=5).table.values
    assert np.array_equal(uncoded, values)


def test_a_small_site_answers_nothing():
    with pytest.raises(GateError, match="fewer than 10 cases"):
        release(all_query(), cohort(9, 2), minimum_cases=10)


def test_a_small_held_out_group_is_not_given_away_by_the_training_fold():
    """Asked of all cases and of the training fold, the difference of both answers is the held-out cases."""
    whole = cohort(60, 2)
    events = np.flatnonzero(whole.outcome.labels == 1)
    training, held_out = np.setdiff1d(np.arange(60), events[:2]), events[:2]
    everything = release(class_query(), whole, minimum_cases=5)
    leaked = everything["power_1"][1] - class_query().summarise(take(whole, training))["power_1"][1]
    np.testing.assert_allclose(leaked, whole.table.values[held_out].sum(axis=0))
    with pytest.raises(GateError):
        release(class_query(), take(whole, training), minimum_cases=5, withheld=take(whole, held_out))
    release(class_query(), take(whole, np.arange(30)), minimum_cases=5, withheld=take(whole, np.arange(30, 60)))


def test_one_missing_value_is_not_given_away_by_subtraction():
    whole = cohort(60, 2)
    values = whole.table.values.copy()
    values[7, 0] = np.nan
    gap = replace(whole, table=whole.table.with_values(values))
    with pytest.raises(GateError):
        release(all_query(), gap, minimum_cases=5)
    wide = widen_missing(gap, minimum_cases=5)
    for query in (all_query(), class_query()):
        release(query, wide, minimum_cases=5)
    assert 5 <= np.isnan(wide.table.values[:, 0]).sum() <= 15
    np.testing.assert_array_equal(wide.table.values[:, 1], values[:, 1])
    kept = ~np.isnan(wide.table.values)
    np.testing.assert_array_equal(wide.table.values[kept], values[kept])


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 500), minimum=st.integers(1, 8))
def test_widened_tables_hold_no_small_cell(share, seed, minimum):
    whole = cohort(80, 3, seed=seed)
    values = whole.table.values.copy()
    values[np.random.default_rng(seed).random(values.shape) < share] = np.nan
    wide = widen_missing(replace(whole, table=whole.table.with_values(values)), minimum_cases=minimum)
    for by, groups in (("class", ("class-0", "class-1")), ("batch", ("scanner-0", "scanner-1", "scanner-2"))):
        query = MomentQuery(whole.table.names, by, groups, np.zeros((len(groups), 3)), 1)
        counts = query.case_counts(wide)
        assert not ((counts > 0) & (counts < minimum)).any()


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float64, st.integers(1, 60), elements=st.integers(0, 30).map(float)),
    base=st.integers(1, 12),
    cuts=st.lists(st.lists(st.integers(-1, 31), min_size=1, max_size=12), min_size=1, max_size=6),
)
def test_no_sequence_of_histograms_proves_a_small_cell(values, base, cuts):
    """The attacker asks for any edges, any number of times, knows the rounding, and subtracts."""
    total, answers = len(values), {-1.0: 0}
    if total < base:
        return
    for edges in cuts:
        edges = [*sorted(float(edge) for edge in edges), np.inf]
        true = np.array([(values <= edge).sum() for edge in edges])
        rounded = round_cumulative(true, base=base)
        assert np.abs(rounded - true).max() <= base / 2
        assert (np.diff(rounded) >= 0).all()
        for edge, count in zip(edges, rounded, strict=True):
            assert answers.setdefault(edge, count) == count, "the same question has the same answer"
    ordered = sorted(answers)
    possible = {edge: consistent(answers[edge], total, base) if np.isfinite(edge) else {total} for edge in ordered}
    if not any(-1 in edges for edges in cuts):
        possible[-1.0] = {0}
    for i, low in enumerate(ordered):
        for high in ordered[i + 1 :]:
            differences = {b - a for a in possible[low] for b in possible[high] if b >= a}
            assert not differences <= set(range(1, base)), (low, high, differences)


def consistent(answer, total, base):
    """True counts that are rounded to ``answer``."""
    return {n for n in range(total + 1) if min((n + base // 2) // base * base, total) == answer}


@settings(max_examples=40, deadline=None)
@given(
    counts=hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(2, 4)), elements=st.integers(0, 25)),
    minimum=st.integers(2, 6),
)
def test_suppressed_cells_cannot_be_reconstructed(counts, minimum):
    """The attacker solves for every hidden number, margins included, by linear programming."""
    table = suppress(counts, minimum_cases=minimum)
    full = np.concatenate([counts.ravel(), counts.sum(axis=1), counts.sum(axis=0), [counts.sum()]])
    shown = np.concatenate([table.counts.ravel(), table.row_totals, table.column_totals, [table.total]])
    visible = shown != HIDDEN
    np.testing.assert_array_equal(shown[visible], full[visible])
    assert not ((full[visible] > 0) & (full[visible] < minimum)).any()
    if table.total == HIDDEN:
        assert not visible.any()
        return
    for position in np.flatnonzero(~visible):
        low, high = feasible_range(table, int(position))
        assert low <= full[position] <= high
        assert high - low + 1 >= minimum


def test_hiding_the_small_cell_alone_would_not_do():
    """Row and column totals give a lone hidden cell away, so a second one in its row and column goes too."""
    table = suppress(np.array([[2, 30], [40, 50]]), minimum_cases=5)
    assert table.counts[0, 0] == HIDDEN
    assert (table.counts == HIDDEN).sum() + (table.row_totals == HIDDEN).sum() + (
        table.column_totals == HIDDEN
    ).sum() >= 3


def test_a_table_without_small_cells_is_released_whole():
    counts = np.array([[20, 0], [30, 7]])
    table = suppress(counts, minimum_cases=5)
    np.testing.assert_array_equal(table.counts, counts)
    assert table.total == 57
