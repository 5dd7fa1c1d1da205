"""Canary trials on the hospital's own private training: below its ledger, and near it where every step sees all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from common.config.loading import digest
from common.privacy.ledger import epsilon, event_to_json
from server.checkpoint import CheckpointStore
from simulations.audit.canaries import canary_row, run_trials
from simulations.audit.canary_trainings import canary_study
from simulations.audit.measured_canaries import can_plant, measure_canaries
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import NONE, PRIVATE, SECURE_SUM, Protections
from tests.simulations.audit.subjects import study, subject

DELTA = 1e-3
PRIVATE_STUDY = (
    "privacy = { minimum_cases = 1 }",
    "privacy = { minimum_cases = 1, sample_level = { target_epsilon = 4, target_delta = 0.001 } }",
)


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory):
    return subject(tmp_path_factory.mktemp("canaries"), study(PRIVATE_STUDY))


@pytest.mark.parametrize("batch_size", [10, None])
def test_a_thousand_trials_show_less_than_the_ledger_says(of, batch_size: int | None):
    planted = canary_study(of, batch_size=batch_size, local_epochs=1, private=True)
    trials = run_trials(planted.trial, planted.direction, n_trials=1000)
    spent = epsilon(trials.events, DELTA, accountant="pld")
    bound = trials.bound(delta=DELTA)
    assert bound.n_trials == 1000
    assert 3 < spent <= 4
    assert bound.epsilon <= spent


def test_the_gaussian_bound_is_below_the_ledger_and_near_it(of):
    """Each run is a bound with 95 % confidence, on noise that nobody can repeat: the median of three is judged."""
    planted = canary_study(of, batch_size=None, local_epochs=1, private=True)
    runs = [run_trials(planted.trial, planted.direction, n_trials=1000) for _ in range(3)]
    bounds = [trials.bound(delta=DELTA) for trials in runs]
    spent = epsilon(runs[0].events, DELTA, accountant="pld")
    assert all(bound.epsilon <= bound.gaussian_epsilon for bound in bounds)
    assert 0.3 * spent < median(bound.gaussian_epsilon for bound in bounds) <= spent


def test_without_noise_a_canary_is_always_seen(of):
    planted = canary_study(of, batch_size=None, local_epochs=1, private=False)
    trials = run_trials(planted.trial, planted.direction, n_trials=200)
    assert trials.with_canary.min() > trials.without.max()
    assert trials.bound(delta=DELTA).epsilon > 2.5


def test_an_audit_finds_noise_that_is_less_than_the_ledger_believes(of):
    """The ledger keeps the mechanism's cost, the training has a fifth of its noise: the bound is above the ledger."""
    planted = canary_study(of, batch_size=None, local_epochs=1, private=True)
    assert planted.mechanism is not None
    quiet = replace(planted.mechanism, noise_multiplier=planted.mechanism.noise_multiplier / 5)
    trials = run_trials(replace(planted, mechanism=quiet).trial, planted.direction, n_trials=400)
    honest = replace(trials, events=planted.events)
    assert honest.bound(delta=DELTA).gaussian_epsilon > epsilon(planted.events, DELTA, accountant="pld")


def test_both_worlds_have_one_mechanism(of):
    planted = canary_study(of, batch_size=5, local_epochs=2, private=True)
    costs = [planted.trial(number, has_canary=number == 1)[1] for number in range(2)]
    assert [list(map(event_to_json, cost)) for cost in costs] == [list(map(event_to_json, planted.events))] * 2
    assert planted.mechanism is not None
    assert planted.mechanism.sampling_rate == pytest.approx(5 / (len(planted.table) + 1))


def test_canary_stands_where_no_case_is():
    table = np.random.default_rng(0).normal(size=(30, 6)) * np.array([3, 2, 1, 1, 1, 0.01])
    canary = canary_row(table, length=7.0)
    assert np.linalg.norm(canary) == pytest.approx(7.0)
    assert np.abs(table @ canary).max() < 0.5
    with pytest.raises(ValueError, match="at least one case"):
        canary_row(table[:0], length=1.0)


def test_trials_in_pieces_are_every_other_with_the_canary():
    seen: list[tuple[int, bool]] = []

    def trial(number: int, has_canary: bool):
        seen.append((number, has_canary))
        return np.array([float(has_canary)]), ()

    trials = run_trials(trial, np.ones(1), first=4, n_trials=4)
    assert seen == [(4, False), (5, True), (6, False), (7, True)]
    assert (trials.without.tolist(), trials.with_canary.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_finding_names_the_ledger_and_what_is_not_used(of, tmp_path: Path):
    store = CheckpointStore(tmp_path, digest(of.study))
    protections = Protections.of_training(of.study, what_if=())
    assert protections.used == (PRIVATE,)
    findings = measure_canaries(of, protections, AuditPlan(canary_trials=100), store, tell=print)
    for finding in findings:
        assert finding.as_run() == finding.cells[PRIVATE]
        assert "the ledger says 3." in finding.cells[PRIVATE].note
        assert finding.cells[SECURE_SUM].note == "not used in this study"
        assert finding.cells[NONE].value is not None
    assert measure_canaries(of, protections, AuditPlan(canary_trials=100), store, tell=pytest.fail) == findings


def test_canaries_need_two_classes_and_a_table(of):
    assert can_plant(of)
    images = of.study.model_copy(update={"models": (of.study.study_model("cnn"),)})
    assert not can_plant(replace(of, study=images))
