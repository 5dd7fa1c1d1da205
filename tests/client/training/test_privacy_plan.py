from __future__ import annotations

import pytest

from client.training.privacy_plan import privacy_plan, sampling_rate, steps_per_epoch
from common.config.privacy import SampleLevelConfig
from common.errors import PrivacyError
from common.messages import PrivacyEvent
from common.privacy.ledger import epsilon
from common.tasks import TrainingConfig
from tests.server.memory_sites import study

PRIVACY = SampleLevelConfig(target_epsilon=4.0, target_delta=1e-4)


def whole_study(n_cases: dict[int, int], n_courses: int) -> list[PrivacyEvent]:
    of = study()
    plan = privacy_plan(of, PRIVACY, n_cases, n_courses=n_courses)
    rounds = {entry.name: entry.rounds for entry in of.models}
    return [plan[key].event for key in plan for _ in range(rounds[key[0]] * n_courses)]


@pytest.mark.parametrize("n_courses", [1, 2])
@pytest.mark.parametrize("n_cases", [{0: 300}, {0: 300, 1: 301, 2: 5}, {0: 300, 1: 0}])
def test_all_rounds_models_folds_and_courses_together_cost_the_target(n_cases: dict[int, int], n_courses: int):
    spent = epsilon(whole_study(n_cases, n_courses), PRIVACY.target_delta)
    assert 0.995 * PRIVACY.target_epsilon < spent <= PRIVACY.target_epsilon


def test_every_round_and_restart_finds_the_same_noise():
    plans = [privacy_plan(study(), PRIVACY, {0: 300, 1: 200}, n_courses=1) for _ in range(2)]
    assert plans[0] == plans[1]
    assert len({mechanism.noise_multiplier for mechanism in plans[0].values()}) == 1


@pytest.mark.parametrize("spare", [0, 2])
def test_a_centred_models_first_round_is_within_the_target(spare: int):
    of = study(
        ("channels = [8], blocks = 0 }", "channels = [8], blocks = 0, centred = true }"), ("rounds = 2", "rounds = 9")
    )
    plan = privacy_plan(of, PRIVACY.model_copy(update={"spare_rounds": spare}), {0: 300}, n_courses=2)
    cnn, logistic = plan["cnn", 0], plan["logistic", 0]
    events = [cnn.once.event, *[cnn.event] * 8, *[logistic.event] * 3] * 2
    assert epsilon([*events, *[cnn.once.event] * spare], PRIVACY.target_delta) <= PRIVACY.target_epsilon
    if not spare:
        assert epsilon(events, PRIVACY.target_delta) > 0.995 * PRIVACY.target_epsilon


def test_one_round_alone_would_have_needed_less_noise():
    of = study()
    short = of.model_copy(update={"models": tuple(m.model_copy(update={"rounds": 1}) for m in of.models)})
    noises = [privacy_plan(s, PRIVACY, {0: 300}, n_courses=1)["cnn", 0].noise_multiplier for s in (of, short)]
    assert noises[0] > noises[1]


def test_spare_rounds_leave_room_for_any_round_to_be_trained_again():
    of, spare = study(), PRIVACY.model_copy(update={"spare_rounds": 3})
    plan = privacy_plan(of, spare, {0: 300, 1: 120}, n_courses=1)
    assert (
        plan["cnn", 0].noise_multiplier
        > privacy_plan(of, PRIVACY, {0: 300, 1: 120}, n_courses=1)["cnn", 0].noise_multiplier
    )
    rounds = {entry.name: entry.rounds for entry in of.models}
    once = [plan[key].event for key in plan for _ in range(rounds[key[0]])]
    for again in plan.values():
        assert epsilon([*once, *[again.event] * 3], PRIVACY.target_delta) <= PRIVACY.target_epsilon


@pytest.mark.parametrize(("batch", "n", "rate", "steps"), [(8, 32, 0.25, 4), (8, 33, 8 / 33, 5), (64, 10, 1.0, 1)])
def test_an_epoch_sees_each_case_once_on_average(batch: int, n: int, rate: float, steps: int):
    settings = TrainingConfig(batch_size=batch)
    assert sampling_rate(settings, n) == rate
    assert steps_per_epoch(settings, n) == steps
    assert rate * steps >= 1


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(PrivacyError, match="no noise"):
        privacy_plan(study(), SampleLevelConfig(target_epsilon=1e-8, target_delta=1e-9), {0: 30}, n_courses=1)
