"""Under site-level privacy a round has one draw of noise, however often and over how many restarts it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.noised_words import KEPT_ROUNDS
from common.config.secure_aggregation import ALL_SITES
from common.config.study import StudyConfig
from common.messages import LocalUpdate, Question, Train
from common.privacy.central import protected
from common.privacy.contribution import Summable
from simulations.in_process import InProcessFederation
from tests.common.privacy.hospitals import names
from tests.server.masked_members import answer_of, masked_study, train_request
from tests.server.test_secure_sum import Consortium, silent

FOUR = names(4)
FIRST = FOUR[0]


def noisy_study() -> StudyConfig:
    text = masked_study(4).model_dump(mode="json")
    text["models"] = text["models"][:1]
    text["federated"]["strategy"] = {"kind": "fedavg", "weighting": "uniform"}
    text["privacy"]["secure_aggregation"]["value_bound"] = 8.0
    text["privacy"]["site_level"] = {"clipping_norm": 0.25, "target_epsilon": 4.0, "target_delta": 1e-3}
    return StudyConfig.model_validate(text)


def clipped(name: str, question: Question) -> Summable:
    answer = answer_of(name, question)
    assert isinstance(answer, LocalUpdate)
    return protected(answer, clipping_norm=0.25)


@pytest.fixture
def made(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path, noisy_study(), compute=clipped)


def summed(made: Consortium, question: Train) -> LocalUpdate | None:
    reply = made.hear(question, LocalUpdate, FOUR).get(ALL_SITES)
    return reply if isinstance(reply, LocalUpdate) else None


def words_of(made: Consortium, name: str) -> list[Path]:
    return sorted((made.members[name].config.state / "noised").rglob("*.words"))


def test_a_round_that_is_asked_again_has_the_noise_of_the_first_time(made: Consortium):
    """Else the mean of many answers would be the update itself (a hundred draws: a tenth of the noise)."""
    question = train_request(made.study)
    sums = []
    for _ in range(4):
        update = summed(made, question)
        assert update is not None
        sums.append(update.delta.flatten())
        for member in made.members.values():
            member.restart()
    assert len({array.tobytes() for array in sums}) == 1
    assert {member.computed for member in made.members.values()} == {1}
    exact = np.mean([clipped(name, question).delta.flatten() for name in FOUR], axis=0)
    assert np.abs(sums[0] - exact).max() > 1e-3


def test_rounds_have_noise_of_their_own(made: Consortium):
    noise = []
    for number in (1, 2):
        question = train_request(made.study, number)
        update = summed(made, question)
        assert update is not None
        noise.append(update.delta.flatten() - np.mean([clipped(n, question).delta.flatten() for n in FOUR], axis=0))
    assert np.abs(noise[0] - noise[1]).max() > 1e-3


def test_a_sum_that_came_to_nothing_is_asked_again_with_the_same_words(made: Consortium):
    """Nobody can tell whether others unmasked it, so no second draw is made; nor are other parameters answered."""
    made.conversation.federation = InProcessFederation(made.members, disturb=silent("Unmask", FOUR))
    assert summed(made, train_request(made.study)) is None
    made.conversation.federation = InProcessFederation(made.members)
    assert summed(made, train_request(made.study, value=1e-6)) is None
    assert "was asked with other parameters" in made.members[FIRST].log[-1]
    assert summed(made, train_request(made.study)) is not None
    assert made.members[FIRST].computed == 1


def test_words_that_are_gone_or_damaged_are_not_drawn_anew(made: Consortium):
    question = train_request(made.study)
    assert summed(made, question) is not None
    (path,) = words_of(made, FIRST)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert summed(made, question) is None
    assert "cannot be read" in made.members[FIRST].log[-1]
    path.unlink()
    assert summed(made, question) is None
    assert "was summed before, and its noisy words are not kept here any more" in made.members[FIRST].log[-1]
    path.write_bytes(content)
    assert summed(made, question) is not None


def test_the_latest_rounds_are_kept_and_all_go_with_a_completed_study(made: Consortium):
    last = KEPT_ROUNDS + 2
    for number in range(1, last + 1):
        assert summed(made, train_request(made.study, number)) is not None
    assert len(words_of(made, FIRST)) == KEPT_ROUNDS
    assert summed(made, train_request(made.study, last)) is not None
    assert summed(made, train_request(made.study, 2)) is None
    study_digest = train_request(made.study).study_digest
    made.members[FIRST].sums.finish(study_digest, completed=False)
    assert words_of(made, FIRST)
    made.members[FIRST].sums.finish(study_digest, completed=True)
    assert not words_of(made, FIRST)
    assert summed(made, train_request(made.study, last)) is None
