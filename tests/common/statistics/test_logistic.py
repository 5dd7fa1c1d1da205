"""Penalised logistic regression against scikit-learn on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from common.errors import StatisticError
from common.statistics.columns import fold_rows
from common.statistics.lasso import PenaltySettings
from common.statistics.logistic import LogisticQuery, logistic_lasso
from common.statistics.procedure import run
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split


def standardised(whole):
    values = whole.table.values
    return replace(whole, table=whole.table.with_values((values - values.mean(axis=0)) / values.std(axis=0) + 0.5))


def pooled(whole, penalty, l1_ratio, rows=None):
    rows = np.ones(whole.table.n_cases, dtype=bool) if rows is None else rows
    model = LogisticRegression(
        l1_ratio=l1_ratio, C=1 / (penalty * rows.sum()), solver="saga", tol=1e-12, max_iter=200_000, random_state=0
    )
    return model.fit(whole.table.values[rows], whole.outcome.labels[rows])


@pytest.mark.parametrize(("l1_ratio", "n_sites"), [(1.0, 1), (1.0, 5), (0.4, 3)])
def test_path_equals_scikit_learn(l1_ratio, n_sites):
    whole = standardised(cohort(200, 20, seed=3, signal=1.5))
    path = solve(
        lambda: logistic_lasso(whole.table.names, PenaltySettings(l1_ratio=l1_ratio, n_penalties=6, smallest=0.03)),
        split(whole, n_sites),
    )
    assert not path.coefficients[0].any()
    for position in (1, 3, 5):
        oracle = pooled(whole, path.penalties[position], l1_ratio)
        np.testing.assert_allclose(path.coefficients[position], oracle.coef_[0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(path.intercepts[position], oracle.intercept_[0], rtol=1e-5, atol=1e-7)


def test_cross_validation_equals_refitting_without_each_fold():
    whole = standardised(cohort(150, 8, seed=4))
    path = solve(
        lambda: logistic_lasso(whole.table.names, PenaltySettings(n_penalties=4, smallest=0.1, n_folds=3)),
        split(whole, 4),
    )
    folds = fold_rows(whole, 3)
    for fold in range(3):
        for position in (1, 3):
            model = pooled(whole, path.penalties[position], 1.0, folds != fold)
            expected = log_loss(
                whole.outcome.labels[folds == fold], model.predict_proba(whole.table.values[folds == fold])
            )
            np.testing.assert_allclose(path.errors[fold, position], expected, rtol=1e-6)


def test_few_rounds():
    whole = standardised(cohort(300, 60, seed=5))
    ask, asked, _ = ask_and_record(split(whole, 4))
    run(logistic_lasso(whole.table.names, PenaltySettings(n_penalties=10, smallest=0.05, n_folds=3)), ask)
    assert len(asked) < 80


def test_unscaled_features_settle():
    whole = cohort(200, 6, seed=3)
    far = replace(whole, table=whole.table.with_values(whole.table.values * 10.0 ** np.arange(-3, 3) + 1e3))
    path = solve(lambda: logistic_lasso(far.table.names, PenaltySettings(n_penalties=5)), split(far, 3))
    assert path.coefficients[-1].any()


def test_coefficients_that_could_single_out_a_case_are_refused():
    """The attack: a steep sigmoid at two thresholds around one case, and the difference of the two gradients is it."""
    whole = cohort(40, 2)
    x = whole.table.values[:, 0]
    low, high = np.sort(x)[[20, 21]]
    steep = 1e4 / (high - low)
    query = LogisticQuery(whole.table.names, (0,), 1, np.zeros(2), np.array([[steep]]), np.array([-steep * low]))
    with pytest.raises(StatisticError, match="single out"):
        query.summarise(whole)


def test_one_class_is_refused_with_the_numbers():
    whole = cohort(30, 3)
    one_class = replace(whole, outcome=replace(whole.outcome, labels=np.zeros(30, dtype=np.int64)))
    with pytest.raises(StatisticError, match=r"both classes: events \[0.0\] of \[30.0\]"):
        solve(lambda: logistic_lasso(whole.table.names), [one_class])
