"""Intervals against published values, an independent DeLong, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import MetricError
from common.evaluation.metrics import auc
from common.evaluation.scores import ScoreSums
from common.evaluation.uncertainty import (
    Estimate,
    average,
    delong_variance,
    mean_interval,
    newcombe_auc,
    normal_quantile,
    wilson,
)
from tests.common.evaluation.predictions import binary


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombe_1998(successes, n, low, high):
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    found = wilson(successes, n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(n=st.integers(1, 500), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_holds_its_value(n, data, confidence):
    found = wilson(data.draw(st.integers(0, n)), n, confidence=confidence)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_undefined_intervals_raise():
    with pytest.raises(MetricError, match="sensitivity is undefined"):
        wilson(0, 0, what="sensitivity")
    with pytest.raises(MetricError, match="needs 2 cases"):
        mean_interval(1.0, 1.0, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        normal_quantile(1.0)
    with pytest.raises(ValueError, match="does not hold its value"):
        Estimate(0.5, 0.6, 0.7, "none")


def test_mean_interval_by_hand():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = mean_interval(values.sum(), values @ values, 4)
    half = 3.182446 * values.std(ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 4.0 - half, 4.0 + half), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(20, 120))
def test_delong_by_its_definition(seed, n):
    """Components V10 and V01 of DeLong et al. 1988, equations 5 and 6, case by case."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.integers(0, 9, n), rng.integers(0, 6, n + 3)
    psi = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    expected = psi.mean(axis=1).var(ddof=1) / n + psi.mean(axis=0).var(ddof=1) / (n + 3)
    found = delong_variance(np.bincount(positives, minlength=9), np.bincount(negatives, minlength=9))
    assert found == pytest.approx(expected, rel=1e-10)


def test_newcombe_solves_its_equation():
    for value, m, n in ((0.8, 20, 30), (0.5, 4, 90), (0.97, 12, 12)):
        z, half = normal_quantile(0.95), (m + n) / 2 - 1
        for end in newcombe_auc(value, m, n, confidence=0.95):
            spread = (1 - end) / (2 - end) + end / (1 + end)
            variance = end * (1 - end) * (1 + half * spread) / (m * n)
            assert abs(end - value) == pytest.approx(z * np.sqrt(variance), abs=1e-9)


@pytest.mark.parametrize("n_positive", [1, 2, 5, 40])
def test_a_perfect_auc_still_has_a_width(n_positive):
    labels = np.repeat([0, 1], [30, n_positive])
    p = np.where(labels == 1, 0.9, 0.2)
    found = auc(ScoreSums.summarise(np.column_stack([1 - p, p]), labels))
    assert found.value == found.high == 1.0
    assert found.low < 0.95
    assert found.method == "Newcombe's method 5"


@pytest.mark.parametrize(("n", "prevalence", "strength"), [(200, 0.3, 1.0), (40, 0.15, 1.2), (60, 0.4, 2.5)])
def test_coverage_of_the_auc_interval(n, prevalence, strength):
    """95 % intervals of normal scores, whose true AUC is known, hold it in 92 to 99 % of 300 samples."""
    from scipy.stats import norm

    true = norm.cdf(strength / np.sqrt(2))
    held = 0
    for seed in range(300):
        p, labels = binary(n, seed=seed, prevalence=prevalence, strength=strength)
        found = auc(ScoreSums.summarise(p, labels))
        held += found.low <= true <= found.high
    assert 0.92 <= held / 300 <= 0.99


def test_average_squares_and_adds():
    found = average(Estimate(0.8, 0.5, 0.9, "a"), Estimate(0.6, 0.2, 0.8, "b"), method="c")
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.45, 0.7 + 0.5 * np.hypot(0.1, 0.2)))


def test_the_mean_of_squares_has_no_negative_end():
    values = np.array([0.0, 0.0, 0.0, 0.9])
    assert mean_interval(values.sum(), values @ values, 4).low < 0
    assert mean_interval(values.sum(), values @ values, 4, lowest=0.0).low == 0
