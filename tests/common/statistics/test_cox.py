"""Federated Cox regression against lifelines on the pooled rows, and against a slow likelihood case by case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy import optimize

from common.errors import GateError, StatisticError
from common.outcomes import SurvivalOutcome
from common.statistics import decode_query, encode_query
from common.statistics.cox import CoxStrataQuery, cox, cox_on_bins
from common.statistics.procedure import run
from common.statistics.small_cell import release
from tests.common.statistics.cohorts import ask_and_record, by_batch, cohort, solve, split
from tests.common.statistics.survival_cohorts import survival_cohort


def pooled(whole, *, penalty=0.0, stratified=True, time=None):
    frame = pd.DataFrame(whole.table.values, columns=list(whole.table.names))
    frame["time"] = whole.outcome.time_days if time is None else time
    frame["event"] = whole.outcome.event
    if stratified:
        frame["batch"] = whole.batch
    return CoxPHFitter(penalizer=penalty).fit(
        frame, "time", "event", strata=["batch"] if stratified else None, fit_options={"precision": 1e-12}
    )


def assert_equal(model, oracle):
    np.testing.assert_allclose(model.coefficients, oracle.params_.to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(model.standard_errors, oracle.standard_errors_.to_numpy(), rtol=1e-6)
    assert model.log_likelihood == pytest.approx(oracle.log_likelihood_, rel=1e-9)


@pytest.mark.parametrize("tied_days", [None, 90.0], ids=["continuous", "tied"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pooled_lifelines_with_sites_as_strata(tied_days, seed):
    whole = survival_cohort(240, 5, seed=seed, tied_days=tied_days)
    oracle = pooled(whole)
    assert_equal(solve(lambda: cox(whole.table.names), by_batch(whole)), oracle)
    assert_equal(solve(lambda: cox(whole.table.names, strata="batch"), [whole]), oracle)


def test_large_offsets_and_odd_scales_keep_the_digits():
    whole = survival_cohort(240, 4)
    factors = np.array([1e-4, 1.0, 1e3, 1e5])
    moved = replace(whole, table=whole.table.with_values((whole.table.values + 100) * factors))
    near, far = (solve(lambda c=c: cox(c.table.names), by_batch(c)) for c in (whole, moved))
    np.testing.assert_allclose(far.coefficients * factors, near.coefficients, rtol=1e-7)


def test_ridge_penalty_as_in_lifelines():
    whole = survival_cohort(200, 4)
    model = solve(lambda: cox(whole.table.names, penalty=0.1), by_batch(whole))
    np.testing.assert_allclose(model.coefficients, pooled(whole, penalty=0.1).params_.to_numpy(), rtol=1e-6)


def slow_breslow(whole):
    """Coefficients that maximise Breslow's likelihood, summed event by event within each batch."""
    x, time, event = whole.table.values, whole.outcome.time_days, whole.outcome.event
    x = x - x.mean(axis=0)
    batch = np.array(whole.batch)

    def negative(beta):
        score, total = x @ beta, 0.0
        for i in np.flatnonzero(event):
            at_risk = (batch == batch[i]) & (time >= time[i])
            total += score[i] - np.log(np.exp(score[at_risk]).sum())
        return -total

    return optimize.minimize(negative, np.zeros(x.shape[1]), method="BFGS", options={"gtol": 1e-8}).x


@pytest.mark.filterwarnings("ignore:.*precision loss.*")
def test_breslow_by_its_definition():
    whole = survival_cohort(120, 3, tied_days=120.0)
    model = solve(lambda: cox(whole.table.names, ties="breslow"), by_batch(whole))
    np.testing.assert_allclose(model.coefficients, slow_breslow(whole), rtol=1e-4)
    efron = solve(lambda: cox(whole.table.names), by_batch(whole))
    assert np.abs(efron.coefficients - model.coefficients).max() > 1e-3


@pytest.mark.parametrize("n_sites", [1, 4])
def test_shared_bins_equal_lifelines_on_rounded_times(n_sites):
    whole = survival_cohort(300, 4, seed=3)
    ends = np.array([60, 120, 200, 300, 450, 700, 1000, 1500, 4000.0])
    rounded = np.append(ends, 9999.0)[np.searchsorted(ends, whole.outcome.time_days)]
    beyond = rounded > 4000
    oracle = pooled(replace(whole, outcome=SurvivalOutcome(whole.outcome.event & ~beyond, rounded)), stratified=False)
    assert_equal(solve(lambda: cox_on_bins(whole.table.names, ends), split(whole, n_sites)), oracle)


def test_scores_of_new_cases():
    whole = survival_cohort(200, 3)
    model = solve(lambda: cox(whole.table.names), by_batch(whole))
    expected = pooled(whole).predict_log_partial_hazard(pd.DataFrame(whole.table.values, columns=whole.table.names))
    found = model.score(whole.table)
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-5, atol=1e-7)


def test_bytes_do_not_grow_with_cases():
    sizes = []
    for n in (200, 800):
        whole = survival_cohort(n, 4)
        ask, _, answered = ask_and_record(by_batch(whole))
        run(cox(whole.table.names), ask)
        sizes.append(max(sum(array.nbytes for array in site.values()) for sums in answered for site in sums))
    assert sizes[0] == sizes[1]


def test_runs_behind_the_small_cell_rule():
    whole = survival_cohort(300, 3)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in by_batch(whole)]

    assert_equal(run(cox(whole.table.names), ask), pooled(whole))
    few = replace(whole, outcome=SurvivalOutcome(np.arange(300) < 4, whole.outcome.time_days))
    with pytest.raises(GateError):
        release(CoxStrataQuery(("feature-000",), "site", "efron", *np.ones((3, 1))), few, minimum_cases=5)


def test_what_has_no_solution_is_named():
    whole = survival_cohort(100, 3)
    values = whole.table.values
    names = whole.table.names

    def fit(changed, outcome=whole.outcome):
        altered = replace(whole, table=whole.table.with_values(changed), outcome=outcome)
        return solve(lambda: cox(names), [altered])

    with pytest.raises(StatisticError, match="constant features have no hazard ratio: feature-001"):
        fit(np.column_stack([values[:, 0], np.full(100, 2.0), values[:, 2]]))
    with pytest.raises(StatisticError, match=r"collinear.*feature-000, feature-002"):
        fit(np.column_stack([values[:, 0], values[:, 1], 3 * values[:, 0] - 1]))
    with pytest.raises(StatisticError, match="no event among 100"):
        fit(values, SurvivalOutcome(np.zeros(100, dtype=bool), whole.outcome.time_days))
    ordered = SurvivalOutcome(np.ones(100, dtype=bool), 1.0 + np.argsort(np.argsort(values[:, 0])))
    with pytest.raises(StatisticError, match=r"order the events|grow without limit|no unique"):
        fit(values, ordered)
    with pytest.raises(StatisticError, match="needs follow-up times"):
        solve(lambda: cox(("feature-000",)), [cohort(50, 2)])
