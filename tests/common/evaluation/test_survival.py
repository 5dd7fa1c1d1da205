"""Concordance against lifelines on the pooled cases; time-dependent AUC against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from common.errors import GateError, MessageError, MetricError
from common.evaluation import evaluation_sums, read_sums
from common.evaluation.risk_grid import N_RISKS, TIME_EDGES_DAYS, RiskSums, risk_of_score, risk_of_survival
from common.evaluation.survival import concordance, kaplan_meier, time_dependent_auc
from common.outcomes import SurvivalOutcome
from tests.common.evaluation.predictions import dealt


def followed(n, *, seed=0, tied=False, on_grid=False):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    event_days, censor_days = rng.exponential(900 * np.exp(-score)), rng.exponential(1500, n)
    time = np.maximum(np.minimum(event_days, censor_days), 0.5)
    if tied:
        score, time = np.round(score, 1), np.ceil(time / 40) * 40
    if on_grid:
        time = TIME_EDGES_DAYS[np.searchsorted(TIME_EDGES_DAYS, np.minimum(time, 12_000))]
    return score, SurvivalOutcome(event_days <= censor_days, time)


def merged(risk, outcome, n_sites, *, seed=0, minimum_cases=1):
    sites = dealt(len(outcome), n_sites, seed=seed)
    return RiskSums.merge([RiskSums.summarise(risk[r], outcome.take(r), minimum_cases=minimum_cases) for r in sites])


def harrell(score, outcome):
    return concordance_index(outcome.time_days, -score, outcome.event)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 90), tied=st.booleans(), minimum=st.sampled_from([1, 3]))
def test_concordance_of_one_site_is_exact(seed, n, tied, minimum):
    score, outcome = followed(n, seed=seed, tied=tied)
    found = concordance(RiskSums.summarise(risk_of_score(score), outcome, minimum_cases=minimum))
    assert found.value == pytest.approx(harrell(score, outcome), abs=1e-12)
    assert found.bound == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_sites=st.integers(2, 6), tied=st.booleans())
def test_merged_concordance_lies_within_its_bound(seed, n_sites, tied):
    score, outcome = followed(80 * n_sites, seed=seed, tied=tied)
    found = concordance(merged(risk_of_score(score), outcome, n_sites, seed=seed))
    assert abs(found.value - harrell(score, outcome)) <= found.bound + 1e-12


def test_the_grid_error_is_small_in_practice():
    for seed in range(5):
        score, outcome = followed(600, seed=seed)
        found = concordance(merged(risk_of_score(score), outcome, 6))
        assert found.bound < 0.03
        assert abs(found.value - harrell(score, outcome)) < 0.002
        rounded = concordance(merged(risk_of_score(score), outcome, 6, minimum_cases=5))
        assert abs(rounded.value - harrell(score, outcome)) <= rounded.rounding + 0.002
        assert 0 < rounded.rounding < 0.01


def test_interval_of_concordance_covers_a_large_sample():
    score, outcome = followed(16_000, seed=1)
    true, held = harrell(score, outcome), 0
    for sample in np.arange(16_000).reshape(80, 200):
        found = concordance(RiskSums.summarise(risk_of_score(score[sample]), outcome.take(sample)))
        held += found.low <= true <= found.high
    assert 0.89 <= held / 80 <= 1.0


def test_kaplan_meier_equals_lifelines_at_the_edges():
    score, outcome = followed(400, on_grid=True)
    sums = merged(risk_of_score(score), outcome, 4)
    ends = TIME_EDGES_DAYS[1:]
    fitted = KaplanMeierFitter().fit(outcome.time_days, outcome.event)
    np.testing.assert_allclose(kaplan_meier(sums)[:-1], fitted.survival_function_at_times(ends), rtol=1e-10)


@pytest.mark.parametrize("at_days", [364.0, 1825.0])
def test_time_dependent_auc_by_its_definition(at_days):
    score, outcome = followed(300, on_grid=True, seed=5)
    risk = (np.floor(risk_of_score(score) * N_RISKS) + 0.5) / N_RISKS
    time, event = outcome.time_days, outcome.event
    at = TIME_EDGES_DAYS[np.abs(TIME_EDGES_DAYS - at_days).argmin()]

    def censoring_free_before(t):
        free = 1.0
        for u in np.unique(time[~event & (time < t)]):
            free *= 1 - (~event & (time == u)).sum() / ((time > u) | (~event & (time == u))).sum()
        return free

    cases, controls = np.flatnonzero(event & (time <= at)), np.flatnonzero(time > at)
    weights = np.array([1 / censoring_free_before(time[i]) for i in cases])
    ordered = (risk[cases][:, None] > risk[controls]) + 0.5 * (risk[cases][:, None] == risk[controls])
    found = time_dependent_auc(merged(risk, outcome, 3), at_days=at_days)
    assert found.value == pytest.approx(weights @ ordered.mean(axis=1) / weights.sum(), rel=1e-10)
    rounded = time_dependent_auc(merged(risk, outcome, 3, minimum_cases=5), at_days=at_days)
    assert abs(rounded.value - found.value) <= rounded.rounding < 0.1


def test_merge_of_parts_is_the_whole():
    score, outcome = followed(200, seed=3)
    risk = risk_of_score(score)
    whole, together = RiskSums.summarise(risk, outcome), merged(risk, outcome, 5)
    np.testing.assert_array_equal(whole.events, together.events)
    np.testing.assert_array_equal(whole.censored, together.censored)


def test_survival_probabilities_become_one_risk():
    survival = np.array([[0.9, 0.8], [0.5, 0.1], [1.0, 1.0]])
    np.testing.assert_allclose(risk_of_survival(survival), [0.15, 0.7, 0.0])
    outcome = SurvivalOutcome(np.array([False, True, False]), np.array([900.0, 100.0, 800.0]))
    back = read_sums(evaluation_sums(survival, outcome))
    assert isinstance(back, RiskSums)
    assert concordance(back).value == 1.0


def test_undefined_and_refused():
    score, outcome = followed(40)
    risk = risk_of_score(score)
    unseen = SurvivalOutcome(np.zeros(40, dtype=bool), outcome.time_days)
    with pytest.raises(MetricError, match="no comparable pair among 40 cases"):
        concordance(RiskSums.summarise(risk, unseen))
    with pytest.raises(MetricError, match="followed beyond it"):
        time_dependent_auc(RiskSums.summarise(risk, outcome), at_days=14_000)
    with pytest.raises(MetricError, match="must lie between 0 and 1"):
        RiskSums.summarise(score, outcome)
    with pytest.raises(GateError, match="events here"):
        RiskSums.summarise(risk, SurvivalOutcome(np.arange(40) < 3, outcome.time_days), minimum_cases=5)
    arrays = RiskSums.summarise(risk, outcome).to_arrays()
    with pytest.raises(MessageError):
        read_sums({**arrays, "events": arrays["events"].astype(np.int64)})
    with pytest.raises(MessageError):
        read_sums({"events": arrays["events"]})
