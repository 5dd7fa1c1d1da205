"""LASSO and elastic net against scikit-learn on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, lasso_path

from common.errors import StatisticError
from common.statistics.columns import fold_rows
from common.statistics.lasso import PenaltySettings, lasso
from common.statistics.linear_sums import GramRowsQuery
from common.statistics.procedure import run
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split


def pooled(whole, penalty, l1_ratio, rows=slice(None)):
    model = ElasticNet(alpha=penalty, l1_ratio=l1_ratio, tol=1e-14, max_iter=1_000_000)
    return model.fit(whole.table.values[rows], whole.outcome.values[rows])


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("n_sites", [1, 4, 9])
def test_whole_path_equals_scikit_learn(l1_ratio, n_sites):
    whole = cohort(150, 100, scalar=True, seed=3)
    settings = PenaltySettings(l1_ratio=l1_ratio, n_penalties=12, smallest=1e-2)
    path = solve(lambda: lasso(whole.table.names, settings), split(whole, n_sites))
    assert not path.coefficients[0].any()
    assert path.coefficients[-1].any()
    for position, penalty in enumerate(path.penalties):
        oracle = pooled(whole, penalty, l1_ratio)
        np.testing.assert_allclose(path.coefficients[position], oracle.coef_, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(path.intercepts[position], oracle.intercept_, rtol=1e-5)


def test_largest_penalty_is_scikit_learns():
    whole = cohort(100, 10, scalar=True)
    path = solve(lambda: lasso(whole.table.names, PenaltySettings(n_penalties=5, smallest=1e-3)), split(whole, 3))
    centred = whole.table.values - whole.table.values.mean(axis=0)
    alphas, _, _ = lasso_path(centred, whole.outcome.values - whole.outcome.values.mean(), alphas=5, eps=1e-3)
    np.testing.assert_allclose(path.penalties, alphas, rtol=1e-10)


def test_cross_validation_equals_refitting_without_each_fold():
    whole = cohort(160, 20, scalar=True, seed=5)
    settings = PenaltySettings(n_penalties=6, n_folds=4)
    path = solve(lambda: lasso(whole.table.names, settings), split(whole, 5))
    folds = fold_rows(whole, 4)
    for fold in range(4):
        for position, penalty in enumerate(path.penalties):
            model = pooled(whole, penalty, 1.0, folds != fold)
            missed = model.predict(whole.table.values[folds == fold]) - whole.outcome.values[folds == fold]
            np.testing.assert_allclose(path.errors[fold, position], np.mean(missed**2), rtol=1e-6)
    assert path.simplest <= path.best
    assert set(path.selected(path.simplest)) <= set(whole.table.names)


def test_binary_outcome_is_fitted_as_zero_and_one():
    whole = cohort(120, 15)
    path = solve(lambda: lasso(whole.table.names, PenaltySettings(penalties=(0.1, 0.02))), split(whole, 4))
    model = ElasticNet(alpha=0.02, l1_ratio=1.0, tol=1e-14, max_iter=100_000)
    model.fit(whole.table.values, whole.outcome.labels)
    np.testing.assert_allclose(path.coefficients[1], model.coef_, rtol=1e-5, atol=1e-9)


def test_more_features_than_cases_and_only_needed_rows_travel():
    whole = cohort(60, 400, scalar=True, seed=9)
    ask, asked, _ = ask_and_record(split(whole, 3))
    path = run(lasso(whole.table.names, PenaltySettings(n_penalties=10, smallest=0.2)), ask)
    oracle = pooled(whole, path.penalties[-1], 1.0)
    np.testing.assert_allclose(path.coefficients[-1], oracle.coef_, rtol=1e-5, atol=1e-7)
    rows = sum(len(query.rows) for query in asked if isinstance(query, GramRowsQuery))
    assert rows < 200
    assert len(asked) < 8


def test_a_response_without_variation_is_refused():
    whole = cohort(30, 4)
    one_class = replace(whole, outcome=replace(whole.outcome, labels=np.zeros(30, dtype=np.int64)))
    with pytest.raises(StatisticError, match="does not vary"):
        solve(lambda: lasso(whole.table.names), split(one_class, 2))


def test_a_constant_feature_stays_out():
    whole = cohort(80, 5, scalar=True)
    values = whole.table.values.copy()
    values[:, 0] = 3.7
    whole = replace(whole, table=whole.table.with_values(values))
    path = solve(lambda: lasso(whole.table.names, PenaltySettings(n_penalties=5)), split(whole, 2))
    assert not path.coefficients[:, 0].any()
