"""Ridge models and support vectors against scikit-learn on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, LinearSVC

from common.errors import GateError, StatisticError
from common.statistics import decode_query, encode_query
from common.statistics.feature_map import FeatureMap
from common.statistics.kernel import rbf_svm
from common.statistics.margins import linear_svm, ridge_logistic, ridge_regression
from common.statistics.procedure import run
from common.statistics.small_cell import release
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split, take


def standardised(whole):
    values = whole.table.values
    return (values - values.mean(axis=0)) / values.std(axis=0)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("n_sites", [1, 5])
def test_logistic_equals_scikit_learn(penalty, n_sites):
    whole = cohort(300, 5, seed=1)
    found = solve(lambda: ridge_logistic(whole.table.names, penalty=penalty), split(whole, n_sites))
    inverse = np.inf if penalty == 0 else 1 / (300 * penalty)
    oracle = LogisticRegression(C=inverse, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    oracle.fit(standardised(whole), whole.outcome.labels)
    np.testing.assert_allclose(found.coefficients, oracle.coef_[0], rtol=1e-6, atol=1e-9)
    assert found.intercept == pytest.approx(oracle.intercept_[0], rel=1e-6)
    np.testing.assert_allclose(found.predict(whole.table), oracle.predict_proba(standardised(whole)), rtol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_ridge_equals_scikit_learn(penalty):
    whole = cohort(200, 5, scalar=True)
    found = solve(lambda: ridge_regression(whole.table.names, penalty=penalty), split(whole, 4))
    oracle = Ridge(alpha=200 * penalty).fit(standardised(whole), whole.outcome.values)
    np.testing.assert_allclose(found.coefficients, oracle.coef_, rtol=1e-8)
    np.testing.assert_allclose(found.score(whole.table), oracle.predict(standardised(whole)), rtol=1e-8)
    np.testing.assert_array_equal(found.predict(whole.table)[:, 0], found.score(whole.table))


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_linear_svm_equals_scikit_learn(penalty):
    whole = cohort(300, 5, seed=2)
    found = solve(lambda: linear_svm(whole.table.names, penalty=penalty), split(whole, 4))
    # liblinear penalises the intercept as one more weight: a large constant column makes that nothing
    oracle = LinearSVC(C=1 / (300 * penalty), dual=False, tol=1e-10, max_iter=100_000, intercept_scaling=1e3)
    oracle.fit(standardised(whole), whole.outcome.labels)
    np.testing.assert_allclose(found.coefficients, oracle.coef_[0], rtol=1e-4, atol=1e-6)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_a_soft_hinge_comes_close_and_counts_every_case():
    whole = cohort(300, 5, seed=2)
    sites = split(whole, 6)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in sites]

    hard = solve(lambda: linear_svm(whole.table.names, penalty=0.1), sites)
    soft = run(linear_svm(whole.table.names, penalty=0.1, softness=0.1), ask)
    assert np.corrcoef(hard.score(whole.table), soft.score(whole.table))[0, 1] > 0.9995
    clear = cohort(300, 5, seed=2, signal=4.0, shift=0.0)
    sites = split(clear, 6)
    with pytest.raises(GateError, match="hold fewer than 5"):
        run(linear_svm(whole.table.names, penalty=0.1), ask)
    run(linear_svm(whole.table.names, penalty=0.1, softness=0.1), ask)


def test_random_features_approximate_the_kernel():
    whole = cohort(60, 4)
    values = standardised(whole)
    mapped = FeatureMap(whole.table.names, whole.table.values.mean(0), whole.table.values.std(0), 2000, 0.25, 3)
    found = mapped.apply(whole.table)
    assert np.abs(found @ found.T - rbf_kernel(values, gamma=0.25)).max() < 0.1


def test_rbf_svm_learns_what_a_line_cannot():
    whole = cohort(700, 4, shift=0.0, signal=0.0, seed=3)
    distance = (standardised(whole)[:, :2] ** 2).sum(axis=1)
    outcome = replace(whole.outcome, labels=(distance > np.median(distance)).astype(np.int64))
    whole = replace(whole, outcome=outcome)
    train, test = take(whole, np.arange(500)), take(whole, np.arange(500, 700))
    fit = lambda sites: solve(lambda: rbf_svm(whole.table.names, penalty=0.003, seed=11, n_random=150), sites)  # noqa: E731 - used twice below
    found = fit(split(train, 4))
    area = roc_auc_score(test.outcome.labels, found.score(test.table))
    centre, scale = train.table.values.mean(0), train.table.values.std(0)
    oracle = SVC(gamma="scale").fit((train.table.values - centre) / scale, train.outcome.labels)
    expected = roc_auc_score(test.outcome.labels, oracle.decision_function((test.table.values - centre) / scale))
    assert area > expected - 0.03
    assert area > 0.9
    np.testing.assert_allclose(fit([train]).score(test.table), found.score(test.table), rtol=1e-6, atol=1e-8)


def test_covariance_of_maximum_likelihood():
    """Against the inverse of the information matrix of the pooled rows."""
    whole = cohort(250, 3)
    found = solve(lambda: ridge_logistic(whole.table.names, penalty=0.0), split(whole, 3))
    design = np.column_stack([np.ones(250), standardised(whole)])
    p = found.predict(whole.table)[:, 1]
    expected = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-7, atol=1e-12)


def test_bytes_do_not_grow_with_cases():
    sizes = []
    for n in (200, 1000):
        whole = cohort(n, 5)
        ask, _, answered = ask_and_record(split(whole, 3))
        run(ridge_logistic(whole.table.names, penalty=0.1), ask)
        sizes.append(sum(array.nbytes for array in answered[-1][0].values()))
    assert sizes[0] == sizes[1]


def test_what_has_no_solution_is_named():
    whole = cohort(100, 3)
    values = whole.table.values

    def fit(changed, penalty=0.0):
        altered = replace(whole, table=whole.table.with_values(changed))
        return solve(lambda: ridge_logistic(whole.table.names, penalty=penalty), [altered])

    with pytest.raises(StatisticError, match="constant features have no coefficient: feature-001"):
        fit(np.column_stack([values[:, 0], np.full(100, 7.0), values[:, 2]]))
    collinear = np.column_stack([values[:, 0], values[:, 1], values[:, 0] + values[:, 1]])
    with pytest.raises(StatisticError, match="no unique solution"):
        fit(collinear)
    fit(collinear, penalty=0.01)
    separated = np.column_stack([whole.outcome.labels + 0.01 * values[:, 1] / values[:, 1].std(), values[:, 1:]])
    with pytest.raises(StatisticError, match="separate"):
        fit(separated)
    fit(separated, penalty=0.01)
    alone = take(whole, np.flatnonzero(whole.outcome.labels == 1))
    with pytest.raises(StatisticError, match="two classes are needed"):
        solve(lambda: ridge_logistic(whole.table.names, penalty=0.1), [alone])
    with pytest.raises(StatisticError, match="needs two classes, got ScalarOutcome"):
        solve(lambda: linear_svm(whole.table.names, penalty=0.1), [cohort(50, 3, scalar=True)])
    with pytest.raises(StatisticError, match=r"n_random lies in 1\.\.2000"):
        solve(lambda: rbf_svm(whole.table.names, penalty=0.1, seed=11, n_random=0), [whole])
    with pytest.raises(StatisticError, match="drawn from the study's seed 11, got 12"):
        solve(lambda: rbf_svm(whole.table.names, penalty=0.1, seed=12), [whole])
    with pytest.raises(StatisticError, match="not negative"):
        fit(values, penalty=-1.0)
