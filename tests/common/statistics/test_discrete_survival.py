"""Discrete hazards against scikit-learn on the pooled person-period table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lifelines.utils import concordance_index
from sklearn.linear_model import LogisticRegression

from common.errors import GateError, StatisticError
from common.outcomes import SurvivalOutcome
from common.statistics import decode_query, encode_query
from common.statistics.discrete_survival import HazardQuery, discrete_hazards
from common.statistics.procedure import run
from common.statistics.small_cell import release
from common.tasks import SurvivalTask
from tests.common.statistics.cohorts import solve, split
from tests.common.statistics.survival_cohorts import survival_cohort

ENDS = (200.0, 500.0, 1000.0, 2000.0)


def person_periods(whole):
    """One row an interval that a case counts in: interval dummies and standardised features, and whether it died."""
    targets = SurvivalTask(interval_ends_days=ENDS).targets(whole.outcome).numpy()
    survived, died = targets[:, : len(ENDS)], targets[:, len(ENDS) :]
    z = (whole.table.values - whole.table.values.mean(axis=0)) / whole.table.values.std(axis=0)
    rows, columns = np.nonzero(survived + died)
    return np.column_stack([np.eye(len(ENDS))[columns], z[rows]]), died[rows, columns]


@pytest.mark.parametrize("n_sites", [1, 5])
def test_equal_to_scikit_learn_on_person_periods(n_sites):
    whole = survival_cohort(400, 4, seed=1)
    found = solve(lambda: discrete_hazards(whole.table.names, ENDS), split(whole, n_sites))
    design, died = person_periods(whole)
    oracle = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(design, died)
    np.testing.assert_allclose(np.r_[found.levels, found.coefficients], oracle.coef_[0], rtol=1e-6)
    p = oracle.predict_proba(design)[:, 1]
    np.testing.assert_allclose(
        found.covariance, np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design), rtol=1e-6, atol=1e-12
    )


def test_survival_falls_and_orders_the_cases():
    whole = survival_cohort(400, 4, seed=2)
    found = solve(lambda: discrete_hazards(whole.table.names, ENDS, penalty=0.01), split(whole, 3))
    survival = found.predict(whole.table)
    assert (np.diff(survival, axis=1) <= 0).all()
    assert concordance_index(whole.outcome.time_days, survival.mean(axis=1), whole.outcome.event) > 0.7


def test_runs_behind_the_small_cell_rule():
    whole = survival_cohort(500, 3)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in split(whole, 3)]

    run(discrete_hazards(whole.table.names, ENDS), ask)
    fine = HazardQuery(whole.table.names, *np.ones((2, 3)), np.arange(1.0, 400.0, 10.0), np.zeros(40), np.zeros(3))
    with pytest.raises(GateError):
        release(fine, whole, minimum_cases=5)


def test_what_has_no_solution_is_named():
    whole = survival_cohort(100, 3)
    with pytest.raises(StatisticError, match=r"no case died between day 0 and 0\.5: merge intervals"):
        solve(lambda: discrete_hazards(whole.table.names, (0.5, 500.0)), [whole])
    separated = replace(
        whole,
        table=whole.table.with_values(
            np.column_stack([whole.outcome.event + 0.01 * whole.table.values[:, 0], whole.table.values[:, 1:]])
        ),
        outcome=SurvivalOutcome(whole.outcome.event, np.where(whole.outcome.event, 100.0, 500.0)),
    )
    with pytest.raises(StatisticError, match="separate"):
        solve(lambda: discrete_hazards(whole.table.names, (200.0,)), [separated])
