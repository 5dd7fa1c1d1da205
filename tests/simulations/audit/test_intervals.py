"""Exact intervals against scipy's binomial test, and rates of attacks whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from simulations.audit.intervals import clopper_pearson, rate_at, roc


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (1, 180), (21, 180), (499, 500)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_interval_is_scipys(k: int, n: int, confidence: float):
    expected = binomtest(k, n).proportion_ci(confidence, method="exact")
    got = clopper_pearson(k, n, confidence=confidence)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_of_no_success_by_hand():
    """The upper end solves (1 - p)^n = 0.025."""
    assert clopper_pearson(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int):
    with pytest.raises(ValueError, match="successes of"):
        clopper_pearson(k, n)


def test_an_attack_that_knows_finds_all():
    rate = rate_at(np.arange(100.0) + 1000, np.arange(100.0))
    assert (rate.rate, rate.auc) == (1.0, 1.0)


def test_a_score_that_is_equal_for_all_finds_nobody():
    rate = rate_at(np.zeros(50), np.zeros(50))
    assert (rate.rate, rate.auc) == (0.0, 0.5)


def test_threshold_allows_one_false_accusation_in_a_hundred():
    """One other scores highest; with 100 others one may be accused, with 99 none."""
    members = np.array([5.0] * 3 + [0.0] * 7)
    assert rate_at(members, np.array([9.0] + [1.0] * 99)).rate == pytest.approx(0.3)
    assert rate_at(members, np.array([9.0] + [1.0] * 98)).rate == 0.0


def test_area_is_the_probability_of_the_right_order():
    rng = np.random.default_rng(3)
    members, others = rng.integers(0, 20, 60).astype(float), rng.integers(0, 15, 50).astype(float)
    pairs = (members[:, None] > others[None, :]) + 0.5 * (members[:, None] == others[None, :])
    assert rate_at(members, others).auc == pytest.approx(pairs.mean())


def test_curve_runs_from_nobody_to_all():
    curve = roc(np.array([1.0, 2.0]), np.array([1.5]))
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    assert (np.diff(curve.false_positive_rate) >= 0).all()


def test_scores_that_know_nothing_find_one_in_a_hundred():
    rng = np.random.default_rng(0)
    rate = rate_at(rng.normal(size=4000), rng.normal(size=4000))
    assert rate.interval.low < 0.01 < rate.interval.high
    assert rate.auc == pytest.approx(0.5, abs=0.02)
