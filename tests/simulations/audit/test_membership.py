"""Membership attacks on a model that knows its cases by heart, and on scores that know nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.loading import digest
from server.checkpoint import CheckpointStore
from simulations.audit.membership import likelihood_ratio, likelihood_scores, loss_threshold
from simulations.audit.retraining import observed_rounds, retrain
from simulations.audit.shadows import FINISHED, UPDATE, Observation, ShadowTask, observe, study_members, train_shadows
from tests.simulations.audit.subjects import N_CASES, subject

N = sum(N_CASES.values())


@pytest.fixture(scope="module")
def overfit(tmp_path_factory: pytest.TempPathFactory):
    of = subject(tmp_path_factory.mktemp("overfit"))
    entry = of.study.study_model("overfit")
    store = CheckpointStore(of.folder / "audit", digest(of.study))
    target = observe(of, entry, retrain(of, entry), study_members(of))
    shadows = train_shadows(of, ShadowTask("overfit", "none", of.study), count=16, store=store)
    return of, store, target, shadows


@pytest.mark.parametrize("attack", [loss_threshold, likelihood_ratio])
def test_attack_on_an_overfit_model_beats_chance(overfit, attack):
    _, _, target, shadows = overfit
    found = attack(target, shadows, FINISHED)
    assert found.rate.auc > 0.7
    assert found.over_shadows > 0.03
    assert found.over_shadows_interval.low > 0.015


def test_likelihood_ratio_finds_more_than_the_loss_at_low_rates(overfit):
    _, _, target, shadows = overfit
    by_loss, by_ratio = (attack(target, shadows, FINISHED) for attack in (loss_threshold, likelihood_ratio))
    assert by_ratio.over_shadows > by_loss.over_shadows


def test_updates_of_single_hospitals_are_attacked_too(overfit):
    _, _, target, shadows = overfit
    assert likelihood_ratio(target, shadows, UPDATE).rate.auc > 0.6


@pytest.mark.parametrize("attack", [loss_threshold, likelihood_ratio])
def test_scores_that_know_nothing_are_not_told_apart(overfit, attack):
    _, _, target, shadows = overfit
    rng = np.random.default_rng(9)
    blind = [replace(seen, scores={FINISHED: rng.normal(size=N)}) for seen in (target, *shadows)]
    found = attack(blind[0], blind[1:], FINISHED)
    assert 0.3 < found.rate.auc < 0.7
    assert found.over_shadows < 0.08


def test_shadows_are_read_back_and_not_trained_again(overfit):
    of, store, _, shadows = overfit
    told: list[int] = []
    task = ShadowTask("overfit", "none", of.study)
    again = train_shadows(of, task, count=16, store=store, progress=told.append)
    assert told == []
    for first, second in zip(shadows, again, strict=True):
        assert np.array_equal(first.member, second.member)
        assert np.array_equal(first.scores[FINISHED], second.scores[FINISHED])


def test_shadows_train_on_as_many_cases_as_the_study_each_on_others(overfit):
    of, _, target, shadows = overfit
    assert {int(shadow.member.sum()) for shadow in shadows} == {int(target.member.sum())}
    assert len({shadow.member.tobytes() for shadow in shadows}) == len(shadows)
    assert np.array_equal(target.member, study_members(of))


def test_several_processes_train_the_same_shadows(overfit, tmp_path: Path):
    of, _, _, shadows = overfit
    store = CheckpointStore(tmp_path, digest(of.study))
    task = ShadowTask("overfit", "none", of.study)
    apart = train_shadows(of, task, count=2, store=store, processes=2)
    for here, there in zip(shadows[:2], apart, strict=True):
        assert np.array_equal(here.scores[FINISHED], there.scores[FINISHED])


def test_ratio_is_that_of_the_gaussians_that_were_drawn_from():
    """A case with mean 3 when trained on and 0 when not: the ratio at 3 is 4.5, at 0 it is -4.5."""
    rng = np.random.default_rng(0)
    member = rng.random((400, 2)) < 0.5
    scores = rng.normal(size=(400, 2)) + 3 * member
    shadows = [Observation(m, {FINISHED: s}) for m, s in zip(member, scores, strict=True)]
    target = Observation(np.array([True, False]), {FINISHED: np.array([3.0, 0.0])})
    assert likelihood_scores(target, shadows, FINISHED) == pytest.approx([4.5, -4.5], abs=1.0)


def test_a_case_that_no_shadow_lacked_is_evidence_of_nothing():
    rng = np.random.default_rng(0)
    shadows = [Observation(np.array([True]), {FINISHED: rng.normal(size=1)}) for _ in range(8)]
    target = Observation(np.array([True]), {FINISHED: np.array([0.1])})
    assert likelihood_scores(target, shadows, FINISHED).tolist() == [0.0]


def test_too_few_shadows_are_refused(overfit):
    _, _, target, shadows = overfit
    with pytest.raises(ValueError, match="expected at least 4"):
        likelihood_scores(target, shadows[:3], FINISHED)


def test_observed_rounds_lie_within_the_study():
    assert observed_rounds(1) == {1}
    assert observed_rounds(40) == {1, 11, 21, 31}
    assert all(max(observed_rounds(n)) <= n for n in range(1, 50))


def test_training_again_gives_the_same_bits(overfit):
    of, _, _, _ = overfit
    entry = of.study.study_model("logistic")
    assert retrain(of, entry).parameters.digest() == retrain(of, entry).parameters.digest()
    assert retrain(of, entry, seed=99).parameters.digest() != retrain(of, entry).parameters.digest()
