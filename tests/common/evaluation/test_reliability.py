"""Brier score, log-loss and calibration against scikit-learn and a fit on the single scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from sklearn import metrics as oracle

from common.errors import MetricError
from common.evaluation.reliability import brier, calibration_curve, calibration_line, log_loss
from common.evaluation.scores import ScoreSums
from tests.common.evaluation.predictions import binary, merged, several


def test_losses_are_exact_for_any_split():
    p, labels = binary(300)
    sums = merged(p, labels, 5)
    assert brier(sums).value == pytest.approx(oracle.brier_score_loss(labels, p[:, 1]), rel=1e-12)
    assert log_loss(sums).value == pytest.approx(oracle.log_loss(labels, p), rel=1e-12)
    p, labels = several(300, 3)
    sums = merged(p, labels, 5)
    assert log_loss(sums).value == pytest.approx(oracle.log_loss(labels, p), rel=1e-12)
    assert brier(sums).value == pytest.approx(((p - np.eye(3)[labels]) ** 2).sum(axis=1).mean(), rel=1e-12)


def test_a_certain_and_wrong_prediction_stays_finite():
    found = log_loss(ScoreSums.summarise(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])))
    assert found.value == pytest.approx(53 * np.log(2) / 2)


@pytest.mark.parametrize("spread", [0.4, 1.5, 4.0])
def test_calibration_line_is_close_to_the_fit_on_single_scores(spread):
    p, labels = binary(800, spread=spread, seed=2)
    x = np.log(p[:, 1] / p[:, 0])

    def deviance(beta, slope=None):
        eta = beta[0] + (beta[1] if slope is None else slope) * x
        return np.logaddexp(0, eta).sum() - eta @ labels

    line = calibration_line(merged(p, labels, 6))
    intercept, slope = optimize.minimize(deviance, np.zeros(2), tol=1e-10).x
    level = optimize.minimize(lambda b: deviance(b, 1.0), np.zeros(1), tol=1e-10).x[0]
    assert line.slope.value == pytest.approx(slope, rel=2e-3)
    assert line.intercept.value == pytest.approx(intercept, abs=2e-3)
    assert line.in_the_large.value == pytest.approx(level, abs=2e-3)


def test_interval_of_a_calibrated_model_holds_slope_one():
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        p = rng.uniform(0.05, 0.95, 250)
        labels = (rng.random(250) < p).astype(np.int64)
        line = calibration_line(ScoreSums.summarise(np.column_stack([1 - p, p]), labels))
        held += line.slope.low <= 1 <= line.slope.high
    assert held >= 90


def test_calibration_curve_counts_each_case_once():
    p, labels = binary(500, seed=1)
    curve = calibration_curve(merged(p, labels, 4))
    assert curve.n_cases.sum() == 500
    assert (np.diff(curve.predicted) > 0).all()
    assert (curve.low <= curve.observed).all()
    assert (curve.observed <= curve.high).all()
    assert curve.observed @ curve.n_cases == pytest.approx(labels.sum())
    assert curve.predicted @ curve.n_cases / 500 == pytest.approx(p[:, 1].mean(), abs=1 / 800)
    assert curve.expected_error == pytest.approx(np.abs(curve.observed - curve.predicted) @ curve.n_cases / 500)


def test_what_has_no_line_says_so():
    labels = np.repeat([0, 1], 20)
    separated = np.where(labels == 1, 0.8, 0.3)
    for p in (separated, np.full(40, 0.4)):
        with pytest.raises(MetricError, match="no finite calibration line"):
            calibration_line(ScoreSums.summarise(np.column_stack([1 - p, p]), labels))
    with pytest.raises(MetricError, match="calibration of no case"):
        calibration_curve(ScoreSums.empty(2))
