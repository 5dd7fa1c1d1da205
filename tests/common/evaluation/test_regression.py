"""Errors of predicted numbers against scikit-learn, for any split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from common.errors import GateError, MessageError, MetricError
from common.evaluation import evaluation_sums, read_sums
from common.evaluation.regression import (
    ErrorSums,
    bias,
    calibration_slope,
    mean_absolute_error,
    r_squared,
    root_mean_squared_error,
)
from common.outcomes import ScalarOutcome
from tests.common.evaluation.predictions import dealt


def numbers(n, seed, offset=0.0):
    rng = np.random.default_rng(seed)
    observed = offset + 3 * rng.normal(size=n)
    return 0.8 * (observed - offset) + offset + rng.normal(size=n), observed


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n_sites=st.integers(1, 6), offset=st.sampled_from([0.0, 500.0]))
def test_equal_to_the_pooled_measures(seed, n_sites, offset):
    predicted, observed = numbers(100, seed, offset)
    parts = [
        ErrorSums.summarise(predicted[rows], observed[rows], centre=offset) for rows in dealt(100, n_sites, seed=seed)
    ]
    sums = ErrorSums.merge(parts)
    assert mean_absolute_error(sums).value == pytest.approx(oracle.mean_absolute_error(observed, predicted), rel=1e-12)
    assert root_mean_squared_error(sums).value == pytest.approx(
        oracle.root_mean_squared_error(observed, predicted), rel=1e-12
    )
    assert r_squared(sums).value == pytest.approx(oracle.r2_score(observed, predicted), rel=1e-9)
    assert bias(sums).value == pytest.approx((predicted - observed).mean(), abs=1e-12)
    assert calibration_slope(sums) == pytest.approx(np.polyfit(predicted, observed, 1)[0], rel=1e-9)


def test_coverage_of_r_squared():
    """Observed = predicted + noise, of equal variance: R2 is 0.5."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        predicted = rng.normal(size=150)
        found = r_squared(ErrorSums.summarise(predicted, predicted + rng.normal(size=150)))
        held += found.low <= 0.5 <= found.high
    assert 0.9 <= held / 200 <= 0.99


def test_undefined_and_refused():
    flat = np.full(10, 3.0)
    with pytest.raises(MetricError, match="does not vary"):
        r_squared(ErrorSums.summarise(flat + np.arange(10), flat))
    with pytest.raises(MetricError, match="needs 3 cases"):
        r_squared(ErrorSums.summarise(flat[:2], flat[:2]))
    with pytest.raises(MetricError, match="predictions do not vary"):
        calibration_slope(ErrorSums.summarise(flat, np.arange(10.0)))
    with pytest.raises(MetricError, match="must be finite"):
        ErrorSums.summarise(flat * np.nan, flat)
    with pytest.raises(GateError):
        ErrorSums.summarise(flat[:4], flat[:4], minimum_cases=5)


def test_the_wire():
    predicted, observed = numbers(30, 1)
    arrays = evaluation_sums(predicted[:, None], ScalarOutcome(observed, "ml"))
    back = read_sums(arrays)
    assert isinstance(back, ErrorSums)
    assert back.n_cases == 30
    with pytest.raises(MessageError):
        read_sums({**arrays, "rows": observed})
    with pytest.raises(MessageError):
        read_sums({**arrays, "moments": arrays["moments"][:2]})
