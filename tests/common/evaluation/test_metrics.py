"""Discrimination against scikit-learn on the pooled scores, and the bounds on what binning changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from common.errors import MetricError
from common.evaluation.metrics import (
    accuracy,
    auc,
    auc_bound,
    average_precision,
    balanced_accuracy,
    classification_summary,
    confusion,
    macro_auc,
    pr_curve,
    roc_curve,
)
from common.evaluation.scores import EDGES, ScoreSums, bin_of
from tests.common.evaluation.predictions import binary, merged, several


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 150), digits=st.sampled_from([None, 1, 2]))
def test_auc_of_one_site_is_exact(seed, n, digits):
    p, labels = binary(n, seed=seed, digits=digits)
    found = auc(ScoreSums.summarise(p, labels))
    assert found.value == pytest.approx(oracle.roc_auc_score(labels, p[:, 1]), abs=1e-12)
    assert found.bound == 0
    if min(labels.sum(), n - labels.sum()) >= 3:
        assert auc(ScoreSums.summarise(p, labels, minimum_cases=3)).value == pytest.approx(found.value, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_sites=st.integers(2, 10),
    spread=st.sampled_from([0.02, 1.0, 20.0]),
)
def test_merged_auc_lies_within_its_bound(seed, n_sites, spread):
    p, labels = binary(60 * n_sites, seed=seed, spread=spread)
    found = auc(merged(p, labels, n_sites, seed=seed))
    assert found.rounding == 0
    assert abs(found.value - oracle.roc_auc_score(labels, p[:, 1])) <= found.bound + 1e-12


def test_the_binning_error_is_small_in_practice():
    p, labels = binary(600, seed=1)
    found = auc(merged(p, labels, 8))
    true = oracle.roc_auc_score(labels, p[:, 1])
    assert found.bound < 0.002
    assert abs(found.value - true) < 0.0005
    assert abs(auc(merged(p, labels, 8, minimum_cases=5)).value - true) < 0.005


@pytest.mark.parametrize("minimum", [5, 10])
@pytest.mark.parametrize("measure", ["auc", "average_precision", "sensitivity", "balanced_accuracy"])
def test_what_the_small_cell_rule_moves_is_stated(minimum, measure):
    """Within the stated size in at least 54 of 60 studies of 4 sites with 50 cases."""
    measures = {
        "auc": auc,
        "average_precision": average_precision,
        "sensitivity": lambda sums: confusion(sums, threshold=0.4).sensitivity(),
        "balanced_accuracy": balanced_accuracy,
    }
    held = 0
    for seed in range(60):
        p, labels = binary(200, seed=seed)
        whole, rounded = ScoreSums.summarise(p, labels), merged(p, labels, 4, minimum_cases=minimum)
        true, found = measures[measure](whole), measures[measure](rounded)
        assert 0 < found.rounding < 0.5
        held += abs(found.value - true.value) <= found.rounding + found.bound
    assert held >= 54


def test_a_mean_of_site_aucs_is_not_the_auc():
    """Two sites, each perfectly ordered, with an offset between them: the pooled AUC sees it."""
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    p = np.column_stack([1 - scores, scores])
    first, second = (ScoreSums.summarise(p[rows], labels[rows]) for rows in (slice(0, 4), slice(4, 8)))
    assert auc(first).value == auc(second).value == 1.0
    assert auc(ScoreSums.merge([first, second])).value == pytest.approx(0.75)


def test_macro_auc_is_the_mean_over_classes():
    p, labels = several(500, 4)
    sums = merged(p, labels, 3)
    found = macro_auc(sums)
    true = oracle.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert abs(found.value - true) <= found.bound + 1e-12
    assert macro_auc(ScoreSums.summarise(p, labels)).value == pytest.approx(true, abs=1e-12)


def test_one_class_has_no_auc():
    p, labels = binary(50)
    events = labels == 1
    for measure in (auc, auc_bound, roc_curve, pr_curve, average_precision):
        with pytest.raises(MetricError, match="no negative case among"):
            measure(ScoreSums.summarise(p[events], labels[events]))
    with pytest.raises(MetricError, match="no positive case"):
        auc(ScoreSums.empty(2))


def test_roc_and_precision_equal_scikit_learn_on_binned_scores():
    p, labels = binary(300, digits=2)
    sums = merged(p, labels, 4)
    binned = EDGES[bin_of(p[:, 1])]
    fpr, tpr, thresholds = oracle.roc_curve(labels, binned, drop_intermediate=False)
    found = roc_curve(sums)
    np.testing.assert_allclose(found.false_positive_rate, fpr)
    np.testing.assert_allclose(found.true_positive_rate, tpr)
    np.testing.assert_allclose(found.thresholds, thresholds)
    precision, recall, _ = oracle.precision_recall_curve(labels, binned)
    points = pr_curve(sums)
    np.testing.assert_allclose(points.precision, precision[-2::-1])
    np.testing.assert_allclose(points.recall, recall[-2::-1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.05, 1.5]))
def test_average_precision_lies_within_its_bound(seed, spread):
    p, labels = binary(240, seed=seed, spread=spread)
    found = average_precision(merged(p, labels, 3, seed=seed))
    assert abs(found.value - oracle.average_precision_score(labels, p[:, 1])) <= found.bound + 1e-12


def test_perfect_precision_has_an_interval():
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    found = average_precision(ScoreSums.summarise(np.column_stack([1 - scores, scores]), np.array([0, 0, 1, 1])))
    assert found.value == found.high == 1.0
    assert found.low < 0.5


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5, 0.77, 0.99])
def test_confusion_is_exact_at_percents(threshold):
    p, labels = binary(300, digits=2)
    found = confusion(merged(p, labels, 4), threshold=threshold)
    tn, fp, fn, tp = oracle.confusion_matrix(labels, p[:, 1] >= threshold).ravel()
    assert (found.true_negative, found.false_positive, found.false_negative, found.true_positive) == (tn, fp, fn, tp)
    assert found.threshold == threshold
    assert found.sensitivity().value == pytest.approx(tp / (tp + fn))
    assert found.specificity().value == pytest.approx(tn / (tn + fp))
    assert found.npv().value == pytest.approx(tn / (tn + fn))
    assert found.balanced_accuracy().value == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
    assert found.accuracy().value == pytest.approx((tp + tn) / 300)


def test_rates_that_are_undefined_say_so():
    p, labels = binary(50)
    with pytest.raises(MetricError, match="positive predictive value is undefined"):
        confusion(ScoreSums.summarise(p, labels), threshold=1.0).ppv()
    with pytest.raises(MetricError, match="a threshold is a probability"):
        confusion(ScoreSums.summarise(p, labels), threshold=1.5)


def test_accuracy_of_several_classes():
    p, labels = several(300, 3)
    sums = merged(p, labels, 3)
    assert accuracy(sums).value == pytest.approx(oracle.accuracy_score(labels, p.argmax(axis=1)))
    assert balanced_accuracy(sums).value == pytest.approx(oracle.balanced_accuracy_score(labels, p.argmax(axis=1)))


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_rounded_accuracy_is_as_near_as_it_says(n_classes):
    p, labels = several(400, n_classes) if n_classes > 2 else binary(400)
    exact, rounded = ScoreSums.summarise(p, labels), merged(p, labels, 4, minimum_cases=6)
    for measure in (accuracy, balanced_accuracy):
        assert measure(exact).rounding == 0
        assert abs(measure(exact).value - measure(rounded).value) <= measure(rounded).rounding


def test_summary_leaves_gaps_for_what_is_undefined():
    p, labels = binary(60)
    assert len(classification_summary(ScoreSums.summarise(p, labels))) == 8
    events = labels == 1
    alone = classification_summary(ScoreSums.summarise(p[events], labels[events]))
    assert "auc" not in alone
    assert "sensitivity" in alone
