"""Bootstrap from counts, and the views of a report."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import MetricError
from common.evaluation.metrics import auc, average_precision, confusion
from common.evaluation.resampling import bootstrap
from common.evaluation.scores import ScoreSums
from common.evaluation.uncertainty import Estimate, difference
from common.evaluation.views import site_views
from tests.common.evaluation.predictions import binary, dealt, merged


def test_bootstrap_agrees_with_delong():
    p, labels = binary(400, seed=3)
    sums = merged(p, labels, 4)
    found = bootstrap(sums, lambda drawn: auc(drawn).value, generator=np.random.default_rng(0), n_draws=400)
    delong = auc(sums)
    assert found.value == delong.value
    assert found.low == pytest.approx(delong.low, abs=0.015)
    assert found.high == pytest.approx(delong.high, abs=0.015)


def test_bootstrap_of_other_measures():
    p, labels = binary(300, seed=3)
    sums = ScoreSums.summarise(p, labels)
    for measure in (
        lambda drawn: average_precision(drawn).value,
        lambda drawn: confusion(drawn, threshold=0.5).balanced_accuracy().value,
    ):
        found = bootstrap(sums, measure, generator=np.random.default_rng(0), n_draws=200)
        assert found.low < found.value < found.high
        again = bootstrap(sums, measure, generator=np.random.default_rng(0), n_draws=200)
        assert found == again


def test_views_by_site_overall_and_without_one():
    p, labels = binary(300)
    parts = {f"site-{i}": ScoreSums.summarise(p[rows], labels[rows]) for i, rows in enumerate(dealt(300, 3))}
    views = site_views(parts)
    assert views.overall.n_cases == 300
    assert {name: sums.n_cases for name, sums in views.without.items()} == {
        name: 300 - sums.n_cases for name, sums in parts.items()
    }
    alone = site_views({"site-0": parts["site-0"]})
    assert alone.without == {}
    assert alone.overall.n_cases == parts["site-0"].n_cases
    with pytest.raises(MetricError, match="no site"):
        site_views({})


def test_difference_squares_and_adds():
    found = difference(Estimate(0.8, 0.5, 0.9, "a", 0.01), Estimate(0.6, 0.2, 0.8, "b", 0.02), method="c")
    expected = (0.2, 0.2 - np.hypot(0.3, 0.2), 0.2 + np.hypot(0.1, 0.4), 0.03)
    assert (found.value, found.low, found.high, found.bound) == pytest.approx(expected)
