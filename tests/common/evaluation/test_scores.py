"""Score sums: the merge law, the wire, the small-cell rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.arrays import merge_sums
from common.errors import Code, GateError, MessageError, MetricError
from common.evaluation import evaluation_sums
from common.evaluation.rounding import levels
from common.evaluation.scores import EDGES, N_BINS, ScoreSums, bin_of
from common.outcomes import ClassOutcome
from tests.common.evaluation.predictions import binary, dealt, merged, several

HISTOGRAMS = ("positives", "negatives", "confusion")


def test_edges_rise_are_symmetric_and_hold_each_percent():
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[0] == 0
    assert EDGES[-1] == 1
    np.testing.assert_allclose(EDGES + EDGES[::-1], 1.0, atol=1e-15)
    assert set(np.arange(1, 100) / 100) <= set(EDGES)
    assert np.diff(EDGES).max() <= 1 / 400 + 1e-12


def test_bins_are_closed_below():
    np.testing.assert_array_equal(bin_of(np.array([0.0, 1.0])), [0, N_BINS - 1])
    np.testing.assert_array_equal(bin_of(EDGES[:-1]), np.arange(N_BINS))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n_sites=st.integers(1, 8), n_classes=st.integers(2, 4), data=st.data())
def test_merge_of_parts_is_the_whole(seed, n_sites, n_classes, data):
    p, labels = binary(120, seed=seed) if n_classes == 2 else several(120, n_classes, seed=seed)
    parts = [ScoreSums.summarise(p[rows], labels[rows]) for rows in dealt(120, n_sites, seed=seed)]
    order = data.draw(st.permutations(range(n_sites)))
    together, whole = ScoreSums.merge([parts[i] for i in order]), ScoreSums.summarise(p, labels)
    for name in HISTOGRAMS:
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
    np.testing.assert_allclose(together.losses, whole.losses, rtol=1e-12)


def test_empty_is_neutral():
    p, labels = several(50, 3)
    sums = ScoreSums.summarise(p, labels)
    both = ScoreSums.merge([ScoreSums.empty(3), sums])
    for name, array in sums.to_arrays().items():
        np.testing.assert_array_equal(getattr(both, name), array)


def test_the_wire():
    p, labels = binary(60)
    arrays = evaluation_sums(p, ClassOutcome(labels, ("benign", "malignant")))
    back = ScoreSums.from_arrays(merge_sums([arrays, arrays]))
    assert back.n_cases == 120
    for wrong in (
        {**arrays, "scores": p},
        {name: array for name, array in arrays.items() if name != "pairs"},
        {**arrays, "slack": arrays["slack"].astype(np.float64)},
        {**arrays, "positives": arrays["positives"][:, :-1]},
        {**arrays, "positives": -arrays["positives"]},
        {**arrays, "losses": arrays["losses"] * np.nan},
        {**arrays, "losses": arrays["losses"] + 1},
        {**arrays, "confusion": np.zeros(4, dtype=np.int64)},
        {**arrays, "confusion": np.zeros((1, 1), dtype=np.int64)},
    ):
        with pytest.raises(MessageError):
            ScoreSums.from_arrays(wrong)


def test_traffic_does_not_grow_with_cases():
    small, large = (sum(a.nbytes for a in ScoreSums.summarise(*binary(n)).to_arrays().values()) for n in (10, 10_000))
    assert small == large < 12_000


@pytest.mark.parametrize(
    ("p", "labels"),
    [
        (np.array([[0.5, np.nan]]), np.array([1])),
        (np.array([[-0.1, 1.1]]), np.array([1])),
        (np.array([[0.5, 0.6]]), np.array([1])),
        (np.array([[0.5, 0.5]]), np.array([2])),
        (np.array([[0.5, 0.5]]), np.array([0, 1])),
        (np.array([[1.0]]), np.array([0])),
    ],
)
def test_bad_predictions_are_refused(p, labels):
    with pytest.raises(MetricError):
        ScoreSums.summarise(p, labels)


def test_classes_and_columns_must_fit():
    with pytest.raises(MetricError, match="do not fit the classes"):
        evaluation_sums(np.full((2, 2), 0.5), ClassOutcome(np.array([0, 1]), ("a", "b", "c")))


def test_a_small_class_stays():
    p, labels = binary(40)
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:4]])
    with pytest.raises(GateError) as refused:
        ScoreSums.summarise(p[rows], labels[rows], minimum_cases=5)
    assert refused.value.code is Code.SMALL_CELL


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), minimum=st.integers(2, 12))
def test_counts_move_by_less_than_a_group_and_totals_stay(seed, minimum):
    p, labels = binary(150, seed=seed)
    exact, sums = ScoreSums.summarise(p, labels), ScoreSums.summarise(p, labels, minimum_cases=minimum)
    for name in HISTOGRAMS:
        running, true = np.cumsum(getattr(sums, name), axis=-1), np.cumsum(getattr(exact, name), axis=-1)
        np.testing.assert_array_equal(running[..., -1:], true[..., -1:])
        assert np.abs(running - true).max() <= sums.slack[0] < 2 * minimum
    for row in np.cumsum(sums.confusion, axis=1):
        assert set(row) <= set(levels(row[-1], minimum))


def test_merged_small_cell_counts_stay_within_the_slack():
    p, labels = binary(500, seed=3)
    sums, exact = merged(p, labels, 6, minimum_cases=5), ScoreSums.summarise(p, labels)
    assert sums.slack[0] <= 6 * 9
    assert np.abs(np.cumsum(sums.positives - exact.positives, axis=1)).max() <= sums.slack[0]
