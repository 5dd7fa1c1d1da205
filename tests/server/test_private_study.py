"""A study under sample-level privacy from end to end: what all updates together cost is what the study promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.study_at_site import StudyAtSite, Trainer
from common.codec import decode, encode
from common.config.study import StudyConfig
from common.errors import GateError, PrivacyError
from common.messages import LocalUpdate, PrivacyEvent, Train
from common.models import initial_parameters
from common.privacy.ledger import GAUSSIAN, SAMPLED_GAUSSIAN, epsilon
from common.rng import SystemNoise
from server.training_state import TrainingState
from tests.server.memory_sites import N_CASES, dataset, final_digests, members, run, study

TARGET, DELTA = 8.0, 1e-3
PRIVATE = (
    "privacy = { minimum_cases = 1 }",
    f"privacy = {{ minimum_cases = 1, sample_level = {{ target_epsilon = {TARGET}, target_delta = {DELTA} }} }}",
)
FOLDS = ('split = { kind = "holdout", test_fraction = 0.4 }', 'split = { kind = "folds", count = 2 }')
CENTRED = (
    "channels = [8], blocks = 0 }",
    'channels = [8], blocks = 0, filters = "scattering", centred = true }',
)
LEFT_OUT = ('split = { kind = "holdout", test_fraction = 0.4 }', 'split = { kind = "leave_one_site_out" }')


def spent(folder: Path, of: StudyConfig, **settings: object) -> dict[str, list[PrivacyEvent]]:
    """Every event that a site sent in the whole study, from the checkpoints."""
    store = run(of, folder, **settings)  # type: ignore[arg-type]
    found: dict[str, list[PrivacyEvent]] = {}
    for name in store.names():
        unit = store.load(name)
        if name.startswith("training.") and unit is not None:
            for entry in TrainingState.from_unit(unit).history:
                found.setdefault(entry.site, []).extend(entry.privacy)
    return found


@pytest.mark.parametrize(
    "changes", [[], [FOLDS], [LEFT_OUT], [CENTRED]], ids=["holdout", "folds", "left out", "centred"]
)
def test_all_that_a_hospital_sends_about_models_costs_the_target(tmp_path: Path, changes: list[tuple[str, str]]):
    found = spent(tmp_path, study(PRIVATE, *changes))
    assert sorted(found) == ["a", "b", "c"]
    for events in found.values():
        assert 0.99 * TARGET < epsilon(events, DELTA) <= TARGET


def test_without_local_only_courses_there_is_less_noise(tmp_path: Path):
    def noise(of: StudyConfig) -> float:
        site = StudyAtSite(of, Trainer("a", "cpu", 1), dataset(of, "a", N_CASES["a"]))
        return site.cost(Train("", 0, "cnn", 1, NOTHING))[0].noise_multiplier

    assert noise(study(PRIVATE, ("local_only = true", "local_only = false"))) < noise(study(PRIVATE))


def cnn_at(of: StudyConfig, site: str = "a", **settings: object) -> tuple[StudyAtSite, Train]:
    trainer = Trainer(site, "cpu", of.privacy.minimum_cases, **settings)  # type: ignore[arg-type]
    start = initial_parameters(of.study_model("cnn").trained[0], of.model_inputs(0), 1)
    return StudyAtSite(of, trainer, dataset(of, site, N_CASES[site])), Train("", 0, "cnn", 1, start)


NOTHING = cnn_at(study())[1].parameters


def test_the_cost_is_known_before_and_travels_with_the_update():
    site, request = cnn_at(study(PRIVATE))
    before = site.cost(request)
    update = decode(*encode(site.train(request)))
    assert isinstance(update, LocalUpdate)
    assert [vars(event) for event in update.privacy] == [vars(event) for event in before]
    assert before[0].steps == 2  # 11 training cases in samples of 8


def test_the_first_round_of_a_centred_model_is_one_release_about_all_cases():
    site, first = cnn_at(study(PRIVATE, CENTRED))
    second = replace(first, round_number=2)
    costs = [site.cost(request)[0] for request in (first, second)]
    assert [(cost.mechanism, cost.steps) for cost in costs] == [(GAUSSIAN, 1), (SAMPLED_GAUSSIAN, 2)]
    assert costs[0].noise_multiplier == costs[1].noise_multiplier
    update = site.train(first)
    assert [vars(event) for event in update.privacy] == [vars(costs[0])]
    assert [name for name, array in update.delta.items() if array.any()] == ["trunk.centre.mean"]
    later = site.train(second).delta
    assert not later["trunk.centre.mean"].any()
    assert later["head.weight"].any()


def test_a_study_without_privacy_claims_none():
    site, request = cnn_at(study())
    assert site.cost(request) == ()
    assert site.train(request).privacy == ()


def test_too_few_cases_are_refused_before_any_cost():
    of = study(PRIVATE, ("minimum_cases = 1", "minimum_cases = 12"))
    site, request = cnn_at(of)
    with pytest.raises(GateError, match="minimum here is 12"):
        site.cost(request)


def test_noise_is_drawn_anew_for_a_round_that_is_asked_again():
    site, request = cnn_at(study(PRIVATE))
    assert site.train(request).delta.digest() != site.train(request).delta.digest()
    fixed, _ = cnn_at(study(PRIVATE), new_noise=lambda: SystemNoise(bytes(32)))
    assert fixed.train(request).delta.digest() == fixed.train(request).delta.digest()


def test_a_resumed_study_keeps_the_costs_of_its_finished_rounds(tmp_path: Path):
    of = study(PRIVATE, ("local_only = true", "local_only = false"))
    sites = members(of)

    def killed(site: str, request: object) -> None:
        if isinstance(request, Train) and request.model == "cnn" and request.round_number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(of, tmp_path, sites=sites, disturb=killed)
    found = spent(tmp_path, of)
    for events in found.values():
        assert 0.99 * TARGET < epsilon(events, DELTA) <= TARGET
    again = spent(tmp_path, of)
    assert {k: len(v) for k, v in again.items()} == {k: len(v) for k, v in found.items()}
    assert final_digests(run(of, tmp_path))


def test_an_epsilon_that_no_noise_reaches_is_refused():
    tiny = (PRIVATE[0], PRIVATE[1].replace(f"target_epsilon = {TARGET}, target_delta = {DELTA}",
                                           "target_epsilon = 1e-8, target_delta = 1e-9"))  # fmt: skip
    site, request = cnn_at(study(tiny))
    with pytest.raises(PrivacyError, match="no noise"):
        site.train(request)
