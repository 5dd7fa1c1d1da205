"""No case moves the scaled sums by more than 1: shown by taking single cases out, whatever they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.errors import PrivacyError
from common.outcomes import ClassOutcome
from common.statistics import QUERIES
from common.statistics.bounded_sums import REFUSED, bounded_sums, reason_without
from common.statistics.bounds import Limits
from common.statistics.leakage import BatchOutcomeQuery
from common.statistics.linear_sums import GramRowsQuery
from common.statistics.moments import MomentQuery
from common.statistics.procedure import Cohort, Query
from common.statistics.quantiles import CountQuery
from common.tables import FeatureTable
from tests.common.statistics.cohorts import take
from tests.common.statistics.examples import EXAMPLES

NAMES = ("a", "b", "c")
CLASSES = ("no", "yes")
SITES = ("here", "there")
CENTRES = np.array([[0.0, 5.0, -3.0], [1.0, -2.0, 0.25]])
LOW, HIGH = np.array([-1.0, 0.0, -2.5]), np.array([1.0, 10.0, -2.0])
MAY_LACK = Limits(NAMES, LOW, HIGH)
COMPLETE = Limits(NAMES, LOW, HIGH, complete=True)
EDGES = np.sort(np.random.default_rng(0).uniform(-3, 10, (3, 7)), axis=1)

BOUNDED: tuple[Query, ...] = (
    MomentQuery(NAMES, "all", ("all",), CENTRES[:1], 1),
    MomentQuery(NAMES, "all", ("all",), CENTRES[1:], 2),
    MomentQuery(NAMES, "class", CLASSES, CENTRES, 2),
    MomentQuery(NAMES[1:], "batch", SITES, CENTRES[:, 1:], 2),
    CountQuery(NAMES, "all", ("all",), EDGES),
    CountQuery(NAMES[:2], "class", CLASSES, EDGES[:2]),
    CountQuery(NAMES, "batch", SITES, EDGES),
    BatchOutcomeQuery(SITES, CLASSES),
)
NEEDS_COMPLETE: tuple[Query, ...] = (
    GramRowsQuery(NAMES, (0, 1, 2), 1, CENTRES[0]),
    GramRowsQuery(NAMES, (2, 0), 1, CENTRES[1]),
)


def cohort(values: np.ndarray, labels: np.ndarray) -> Cohort:
    ids = tuple(f"case-{i}" for i in range(len(values)))
    table = FeatureTable(values, NAMES, ids)
    return Cohort(table, table.select(()), ClassOutcome(labels, CLASSES), ("here",) * len(ids))


def cohorts(*, missing: bool) -> st.SearchStrategy[Cohort]:
    """Any values, far beyond the ranges too, and any that are missing."""
    size = st.integers(2, 6)
    number = st.floats(-1e6, 1e6) | st.sampled_from([-1.0, 0.0, 1.0, 10.0, -2.5, -2.0])
    number = number | st.just(float("nan")) if missing else number
    return size.flatmap(
        lambda n: st.builds(
            cohort,
            arrays.arrays(np.float64, (n, 3), elements=number),
            arrays.arrays(np.int64, n, elements=st.integers(0, 1)),
        )
    )


def moved(query: Query, whole: Cohort, without: Cohort, limits: Limits) -> float:
    before, after = (bounded_sums(query, part, limits) for part in (whole, without))
    assert all((before.scales[name] == after.scales[name]).all() for name in before.scales)
    for name, scale in before.scales.items():  # what needs no noise does not depend on the case
        np.testing.assert_array_equal(before.sums[name][scale == 0], after.sums[name][scale == 0])
    return float(np.linalg.norm(before.scaled() - after.scaled()))


@pytest.mark.parametrize("query", BOUNDED, ids=lambda q: f"{q.kind}-{getattr(q, 'by', '')}")
@settings(max_examples=60, deadline=None)
@given(whole=cohorts(missing=True))
def test_a_case_taken_out_moves_the_sums_by_at_most_one(query: Query, whole: Cohort):
    for i in range(whole.table.n_cases):
        rest = take(whole, np.delete(np.arange(whole.table.n_cases), i))
        assert moved(query, whole, rest, MAY_LACK) <= 1 + 1e-9


@pytest.mark.parametrize("query", [*BOUNDED, *NEEDS_COMPLETE], ids=lambda q: f"{q.kind}-{getattr(q, 'by', '')}")
@settings(max_examples=60, deadline=None)
@given(whole=cohorts(missing=False), other=cohorts(missing=False))
def test_with_no_value_missing_too_and_another_case_in_its_place_moves_them_by_at_most_two(
    query: Query, whole: Cohort, other: Cohort
):
    n = whole.table.n_cases
    rest = take(whole, np.arange(n - 1))
    values = np.vstack([rest.table.values, other.table.values[:1]])
    labels = np.append(rest.outcome.labels, other.outcome.labels[0])
    assert moved(query, whole, rest, COMPLETE) <= 1 + 1e-9
    assert moved(query, whole, cohort(values, labels), COMPLETE) <= 2 + 1e-9


@pytest.mark.parametrize("query", [*BOUNDED, *NEEDS_COMPLETE], ids=lambda q: f"{q.kind}-{getattr(q, 'by', '')}")
def test_the_bound_is_reached_or_nearly_so(query: Query):
    """A sensitivity far above the truth would buy noise for nothing."""
    corners = [np.array([LOW, HIGH])[list(bits), [0, 1, 2]] for bits in np.ndindex(2, 2, 2)]
    largest = 0.0
    for corner in corners:
        for label in (0, 1):
            whole = cohort(np.vstack([corner, np.zeros(3)]), np.array([label, 0]))
            largest = max(largest, moved(query, whole, take(whole, np.array([1])), COMPLETE))
    assert largest > 0.7


@pytest.mark.parametrize("query", [*BOUNDED, *NEEDS_COMPLETE], ids=lambda q: f"{q.kind}-{getattr(q, 'by', '')}")
def test_without_noise_the_answer_is_the_querys_own_on_clipped_cases(query: Query):
    rng = np.random.default_rng(1)
    whole = cohort(rng.normal(0, 4, (40, 3)), rng.integers(0, 2, 40))
    bounded = bounded_sums(query, whole, COMPLETE)
    answer = bounded.answer(bounded.scaled())
    exact = query.summarise(replace(whole, table=COMPLETE.clip(whole.table)))
    assert answer.keys() == exact.keys()
    for name, array in exact.items():
        assert answer[name].dtype == array.dtype
        np.testing.assert_allclose(answer[name], array, rtol=1e-12, atol=1e-9)


def test_missing_values_are_counted_and_the_count_has_noise():
    values = np.array([[np.nan, 1.0, -2.2], [0.5, np.nan, -2.1], [0.2, 2.0, -2.3]])
    bounded = bounded_sums(BOUNDED[1], cohort(values, np.zeros(3, dtype=np.int64)), MAY_LACK)
    np.testing.assert_array_equal(bounded.answer(bounded.scaled())["present"], [[2, 2, 3]])
    assert (bounded.scales["present"] > 0).all()
    assert "present" not in bounded_sums(BOUNDED[1], cohort(values, np.zeros(3, dtype=np.int64)), COMPLETE).scales


def test_noise_does_not_make_impossible_counts():
    whole = cohort(np.zeros((5, 3)), np.zeros(5, dtype=np.int64))
    bounded = bounded_sums(BOUNDED[2], whole, MAY_LACK)
    answer = bounded.answer(bounded.scaled() - 1e3)
    assert (answer["cases"] == 0).all()
    assert (answer["present"] == 0).all()
    assert (answer["power_2"] == 0).all()


def test_every_question_is_bounded_or_refused_with_a_reason():
    """A new query must say which it is."""
    allowed = {type(query) for query in (*BOUNDED, *NEEDS_COMPLETE)}
    assert {q.kind for q in QUERIES} - {q.kind for q in allowed} == set(REFUSED)
    assert reason_without(MomentQuery) != REFUSED["cox_bins"]


@pytest.mark.parametrize("query", [q for q in EXAMPLES if q.kind in REFUSED], ids=lambda q: q.kind)
def test_a_question_without_private_version_is_refused_with_the_reason(query: Query):
    whole = cohort(np.zeros((3, 3)), np.zeros(3, dtype=np.int64))
    with pytest.raises(PrivacyError, match=f"{query.kind} has no private version: "):
        bounded_sums(query, whole, COMPLETE)


def test_what_cannot_be_bounded_is_refused():
    whole = cohort(np.zeros((3, 3)), np.zeros(3, dtype=np.int64))
    with pytest.raises(PrivacyError, match="no range is declared of b"):
        bounded_sums(BOUNDED[0], whole, MAY_LACK.keep(("a", "c")))
    with pytest.raises(PrivacyError, match="a centre lies more than"):
        bounded_sums(MomentQuery(NAMES, "all", ("all",), np.full((1, 3), 1e200), 1), whole, MAY_LACK)
    with pytest.raises(PrivacyError, match="after an imputer only"):
        bounded_sums(NEEDS_COMPLETE[0], whole, MAY_LACK)
    with pytest.raises(PrivacyError, match="without folds"):
        bounded_sums(GramRowsQuery(NAMES, (0,), 2, CENTRES[0]), whole, COMPLETE)
