"""Noisy score counts: one case, one count; without noise the usual measures to the width of a bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MetricError
from common.evaluation import ScoreSums
from common.evaluation.metrics import auc, confusion
from common.evaluation.private_scores import COARSE, private_scores, score_counts
from common.evaluation.reliability import brier


def predictions(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-rng.normal(1.6 * labels - 0.8, 1.2)))
    return np.column_stack([1 - p, p]), labels


def test_a_case_changes_one_count_by_one():
    probabilities, labels = predictions(30)
    whole = score_counts(probabilities, labels)
    assert whole.shape == (2 * COARSE,)
    for i in range(30):
        rest = np.delete(np.arange(30), i)
        assert np.linalg.norm(whole - score_counts(probabilities[rest], labels[rest])) == 1


def test_without_noise_measures_are_those_of_the_scores_to_a_bin():
    probabilities, labels = predictions(2_000)
    exact = ScoreSums.summarise(probabilities, labels)
    found = private_scores(score_counts(probabilities, labels), n_cases=2_000, noise_std=0.0)
    assert auc(found).value == pytest.approx(auc(exact).value, abs=0.005)
    assert brier(found).value == pytest.approx(brier(exact).value, abs=0.005)
    assert found.confusion.sum() == 2_000
    np.testing.assert_array_equal(found.confusion, exact.confusion)
    one, other = (confusion(sums, threshold=0.5) for sums in (found, exact))
    assert one.sensitivity().value == pytest.approx(other.sensitivity().value)


@given(noise=st.lists(st.floats(-40, 40), min_size=2 * COARSE, max_size=2 * COARSE), n=st.integers(0, 60))
def test_whatever_the_noise_counts_are_whole_and_add_up_to_the_public_number(noise: list[float], n: int):
    probabilities, labels = predictions(n)
    found = private_scores(score_counts(probabilities, labels) + np.array(noise), n_cases=n, noise_std=3.0)
    assert found.n_cases == n
    assert found.positives.sum() + found.negatives.sum() == n
    assert found.slack[0] == round(6 * np.sqrt(10))
    ScoreSums.from_arrays(found.to_arrays())


def test_with_noise_the_area_is_near_and_the_interval_says_that_counts_were_changed():
    probabilities, labels = predictions(2_000)
    exact = auc(ScoreSums.summarise(probabilities, labels)).value
    rng = np.random.default_rng(0)
    counts = score_counts(probabilities, labels)
    found = [
        auc(private_scores(counts + rng.normal(0, 3, counts.shape), n_cases=2_000, noise_std=3.0)) for _ in range(40)
    ]
    error = np.array([estimate.value for estimate in found]) - exact
    assert np.sqrt((error**2).mean()) < 0.01
    assert min(estimate.rounding for estimate in found) > 0


def test_what_is_not_two_classes_is_refused():
    with pytest.raises(MetricError, match="two classes"):
        score_counts(np.ones((3, 3)) / 3, np.zeros(3, dtype=np.int64))


def test_a_score_that_is_none_is_counted_and_not_told_by_a_refusal():
    counts = score_counts(np.array([[0.5, np.nan], [0.1, 0.9]]), np.array([0, 1]))
    assert counts.sum() == 2
    assert counts[0] == 1
