"""Recalibration against scikit-learn on binned scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from common.errors import MetricError, StatisticError
from common.evaluation.reliability import calibration_curve, calibration_line, log_loss
from common.evaluation.scores import CENTRES, ScoreSums, bin_of
from common.statistics.calibration import IsotonicMap, PlattMap, isotonic, platt
from common.statistics.codec import decode_fields, encode_fields
from tests.common.evaluation.predictions import binary, merged, several


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 300), spread=st.sampled_from([0.3, 1.5, 5.0]))
def test_isotonic_equals_scikit_learn_on_binned_scores(seed, n, spread):
    p, labels = binary(n, seed=seed, spread=spread)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(CENTRES[bin_of(p[:, 1])], labels)
    at = np.linspace(0, 1, 997)
    found = isotonic(merged(p, labels, 3, seed=seed)).apply(np.column_stack([1 - at, at]))
    np.testing.assert_allclose(found[:, 1], oracle.predict(at), atol=1e-9)


def test_platt_makes_new_cases_calibrated():
    p, labels = binary(4000, spread=4.0, seed=1)
    learned = platt(merged(p[:2000], labels[:2000], 5))
    before = ScoreSums.summarise(p[2000:], labels[2000:])
    after = ScoreSums.summarise(learned.apply(p[2000:]), labels[2000:])
    line = calibration_line(after)
    assert line.slope.low < 1 < line.slope.high
    assert line.intercept.low < 0 < line.intercept.high
    assert log_loss(after).value < log_loss(before).value
    smooth = ScoreSums.summarise(isotonic(merged(p[:2000], labels[:2000], 5)).apply(p[2000:]), labels[2000:])
    assert calibration_curve(smooth).expected_error < 0.5 * calibration_curve(before).expected_error


def test_platt_leaves_a_calibrated_model_nearly_alone():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 5000)
    labels = (rng.random(5000) < p).astype(np.int64)
    learned = platt(ScoreSums.summarise(np.column_stack([1 - p, p]), labels))
    assert learned.slope == pytest.approx(1, abs=0.08)
    assert learned.intercept == pytest.approx(0, abs=0.08)


def test_certain_probabilities_stay_finite():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(PlattMap(0.1, 0.7).apply(sure)).all()


def test_maps_go_over_the_wire():
    p, labels = binary(200)
    for learned in (platt(merged(p, labels, 2)), isotonic(merged(p, labels, 2))):
        back = decode_fields(type(learned), encode_fields(learned))
        np.testing.assert_array_equal(back.apply(p), learned.apply(p))


def test_what_cannot_be_calibrated_is_named():
    p, labels = binary(300, strength=2.0)
    with pytest.raises(StatisticError, match="higher scores go with fewer events"):
        platt(ScoreSums.summarise(p[:, ::-1], labels))
    with pytest.raises(StatisticError, match="for two classes, got 4"):
        isotonic(ScoreSums.summarise(*several(100)))
    with pytest.raises(StatisticError, match="for two classes"):
        PlattMap(0.0, 1.0).apply(np.full((2, 3), 1 / 3))
    with pytest.raises(MetricError, match="no negative case"):
        isotonic(ScoreSums.summarise(p[labels == 1], labels[labels == 1]))
    for at, values in (([0.1, 0.1], [0.0, 1.0]), ([0.1, 0.2], [1.0, 0.0]), ([0.1], [1.5]), ([0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match=r"rise|between|fit"):
            IsotonicMap(np.array(at), np.array(values))
    with pytest.raises(ValueError, match="turn the order"):
        PlattMap(0.0, -1.0)
