"""What a site remembers between rounds: enough to send few bytes, nothing whose loss does harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.asked_questions import question_of
from client.exchange import Exchange, Residuals
from common.arrays import Parameters, moved
from common.compression import send
from common.config.loading import parse
from common.config.shared_grids import private_grid_of, shared_grid_of
from common.config.study import StudyConfig
from common.errors import Code, MessageError, StateError
from common.messages import Difference, LocalUpdate, Train
from common.privacy.shared_grid import sensitivity_after_rounding, words_of
from common.rng import generator
from tests.server.memory_sites import study

MODEL = Parameters({"w": generator(0, "model").normal(size=(30, 7)).astype(np.float32)})


def compressing(kind: str = "int8") -> StudyConfig:
    return study(("federated = { quorum = 2 }", f'federated = {{ quorum = 2, compression = {{ kind = "{kind}" }} }}'))


@pytest.fixture
def notes() -> list[str]:
    return []


def exchange(folder: Path, notes: list[str], of: StudyConfig | None = None, site: str = "a") -> Exchange:
    return Exchange(of or compressing(), site, folder / "residuals", notes.append)


def request(number: int = 1, **changes) -> Train:
    return replace(Train("digest", 0, "cnn", number, MODEL), **changes)


def update(number: int = 1) -> LocalUpdate:
    delta = generator(0, "delta", number).normal(size=(30, 7)).astype(np.float32)
    return LocalUpdate("cnn", number, 10, Parameters({"w": delta}), 0.5)


def sent_in(rounds: list[int], folder: Path, notes: list[str], *, again: int | None = None) -> list[bytes]:
    """Codes of the rounds in order; before ``again`` the site is killed, and that round is asked twice."""
    here = exchange(folder, notes)
    found = []
    for number in rounds:
        if number == again:
            here.packed(here.opened(request(number)), update(number))
            here = exchange(folder, notes)
        found.append(here.packed(here.opened(request(number)), update(number)).compressed[0].tobytes())
    return found


def test_a_study_that_does_not_compress_changes_no_message(tmp_path, notes):
    here = exchange(tmp_path, notes, study())
    asked, answered = request(), update()
    assert here.opened(asked) is asked
    assert here.packed(asked, answered) is answered
    assert not (tmp_path / "residuals").exists()


@pytest.mark.parametrize("rounds", [[1, 2, 3, 4], [1, 2, 4, 5]])
@pytest.mark.parametrize("again", [1, 2, 4])
def test_a_killed_site_that_is_asked_again_sends_the_same_bytes(tmp_path, notes, rounds, again):
    undisturbed = sent_in(rounds, tmp_path / "one", notes)
    assert sent_in(rounds, tmp_path / "two", notes, again=again) == undisturbed
    assert notes == []


def test_the_files_do_not_grow_with_the_rounds(tmp_path, notes):
    sent_in([1, 2, 3, 4, 5, 6], tmp_path, notes)
    assert len(list((tmp_path / "residuals").iterdir())) == 2


def test_a_new_run_of_the_study_begins_without_the_residuals_of_the_former(tmp_path, notes):
    first = sent_in([1, 2, 3], tmp_path, notes)
    assert sent_in([1, 2, 3], tmp_path, notes) == first


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, None])
def test_a_lost_residual_is_said_and_the_round_goes_on_without_it(tmp_path, notes, damage):
    here = exchange(tmp_path, notes)
    here.packed(here.opened(request(1)), update(1))
    (path,) = (tmp_path / "residuals").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content) if damage is None else damage)
    got = here.packed(here.opened(request(2)), update(2)).compressed[0]
    draws = generator(compressing().seed, "compress", "a", "federated/cnn/fold0", 2)
    without = send(compressing().federated.compression.build(), update(2).delta.flatten(), None, draws)
    np.testing.assert_array_equal(got, without.data)
    assert len(notes) == 1
    assert "is left out" in notes[0]


def test_courses_models_and_folds_have_residuals_of_their_own(tmp_path, notes):
    here = exchange(tmp_path, notes)
    first = {
        key: here.packed(asked, update()).compressed[0].tobytes()
        for key, asked in {
            "model": here.opened(request()),
            "local": here.opened(request(course="local-a")),
            "fold": here.opened(request(fold=1)),
            "other": here.opened(request(model="other")),
        }.items()
    }
    assert len(set(first.values())) == 4
    assert len(list((tmp_path / "residuals").iterdir())) == 4


def test_a_residual_that_cannot_be_written_stops_the_answer(tmp_path, notes):
    (tmp_path / "residuals").write_text("a file in place of the folder")
    here = exchange(tmp_path, notes)
    with pytest.raises(StateError):
        here.packed(here.opened(request()), update())


def difference(base: Parameters) -> tuple[Parameters, Difference]:
    code = compressing().federated.compression.build()
    sent = send(code, np.ones(base.size), None, generator(0, "broadcast"))
    reached = moved(base, sent.values)
    return reached, Difference(base.digest(), reached.digest(), sent.data)


def test_a_difference_leads_to_the_model_and_that_is_the_next_base(tmp_path, notes):
    here = exchange(tmp_path, notes)
    here.opened(request(1))
    second, to_second = difference(MODEL)
    opened = here.opened(request(2, parameters=Parameters({}), difference=(to_second,)))
    assert opened.parameters.digest() == second.digest()
    assert opened.difference == ()
    third, to_third = difference(second)
    opened = here.opened(request(3, parameters=Parameters({}), difference=(to_third,)))
    assert opened.parameters.digest() == third.digest()


@pytest.mark.parametrize("held", ["nothing", "another course", "another model", "another base"])
def test_without_the_base_the_site_says_so_and_takes_the_whole(tmp_path, notes, held):
    here = exchange(tmp_path, notes)
    second, to_second = difference(MODEL)
    if held == "another course":
        here.opened(request(1, course="local-a"))
    if held == "another model":
        here.opened(request(1, model="other"))
    if held == "another base":
        here.opened(request(1, parameters=second))
    with pytest.raises(MessageError) as refused:
        here.opened(request(2, parameters=Parameters({}), difference=(to_second,)))
    assert refused.value.code == Code.BASE_ABSENT
    assert here.opened(request(2, parameters=second)).parameters.digest() == second.digest()


def test_requests_that_do_not_fit_are_refused(tmp_path, notes):
    _, to_second = difference(MODEL)
    with pytest.raises(MessageError, match="does not compress"):
        exchange(tmp_path, notes, study()).opened(request(2, parameters=Parameters({}), difference=(to_second,)))
    with pytest.raises(MessageError, match="local-b"):
        exchange(tmp_path, notes).opened(request(1, course="local-b"))
    for course in ("../x", "local-", "local-A", "all"):
        with pytest.raises(ValueError, match="course"):
            request(course=course)
    with pytest.raises(ValueError, match="whole or as one"):
        request(difference=(to_second,))


def test_a_site_that_missed_rounds_goes_on_with_its_latest_residual(tmp_path):
    residuals = Residuals(tmp_path, lambda _: None)
    residuals.keep("s", 3, np.full(4, 3, np.float32))
    assert residuals.entering("s", 2, 4) is None
    for number in (3, 7):
        np.testing.assert_array_equal(residuals.entering("s", number, 4), np.full(4, 3))
    residuals.keep("s", 8, np.full(4, 8, np.float32))
    np.testing.assert_array_equal(residuals.entering("s", 7, 4), np.full(4, 3))
    assert residuals.entering("s", 1, 4) is None


def test_the_gate_counts_a_model_that_comes_whole_after_its_difference_as_the_same_question():
    second, to_second = difference(MODEL)
    small = question_of(request(2, parameters=Parameters({}), difference=(to_second,)))
    assert question_of(request(2, parameters=second)) == small
    assert question_of(request(2)) != small
    assert question_of(request(3, parameters=second)) != small
    assert question_of(request(2, parameters=second, course="local-a")) != small


MASKED_STUDY = """
seed = 3
name = "bench"
title = "Sums in few bits"
outcome = { kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"] }
clinical = [{ column = "age", kind = "numeric" }]
sites = [{ name = "a" }, { name = "b" }, { name = "c" }]
federated = { compression = { kind = "int8" } }
privacy = { secure_aggregation = { most_cases = 1000 } }
[[images]]
name = "ct"
modality = "CT"
image = "{case_id}/ct.nii.gz"
roi = "{case_id}/roi.nii.gz"
[[models]]
name = "cnn"
rounds = 100
model = { kind = "linear" }
training = { learning_rate = 0.1 }
"""


def masked_study(*changes: tuple[str, str]) -> StudyConfig:
    text = MASKED_STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text, StudyConfig, source="study.toml")


def test_under_masks_the_first_round_goes_whole_and_later_ones_as_whole_numbers_on_the_shared_grid(tmp_path, notes):
    here = exchange(tmp_path, notes, masked_study())
    first = here.packed(here.opened(request()), update())
    assert not first.compressed
    assert first.delta.digest() == update().delta.digest()
    asked = request(2, value_bounds=(40.0,))
    second = here.packed(here.opened(asked), update(2))
    grid = shared_grid_of(masked_study(), asked)
    assert grid is not None
    sent = grid.decode(words_of(second.compressed[0], size=210))
    kept = Residuals(tmp_path / "residuals", notes.append).entering("federated/cnn/fold0", 3, 210)
    assert kept is not None
    np.testing.assert_allclose(sent + kept, 10 * update(2).delta.flatten(), atol=1e-5)  # weighted by its ten cases
    assert np.abs(kept).max() < grid.steps.max()


def test_a_round_under_masks_that_is_asked_again_gives_the_same_words(tmp_path, notes):
    asked = [request(number, value_bounds=(8.0,)) for number in (2, 3)]
    here = exchange(tmp_path, notes, masked_study())
    words = [here.packed(here.opened(a), update(a.round_number)).compressed[0].tobytes() for a in asked]
    after_a_crash = exchange(tmp_path, notes, masked_study())
    again = after_a_crash.packed(after_a_crash.opened(asked[1]), update(3))
    assert again.compressed[0].tobytes() == words[1]


def test_bounds_that_do_not_fit_the_model_are_refused(tmp_path, notes):
    here = exchange(tmp_path, notes, masked_study())
    with pytest.raises(MessageError, match="2 bounds for 1 tensors"):
        here.packed(here.opened(request(2, value_bounds=(8.0, 1.0))), update(2))
    with pytest.raises(ValueError, match="finite and not negative"):
        request(2, value_bounds=(-1.0,))
    with pytest.raises(MessageError, match="that has none"):
        shared_grid_of(compressing(), request(2, value_bounds=(8.0,)))


def test_under_site_level_privacy_every_round_has_the_grid_of_the_norm_and_leaves_nothing(tmp_path, notes):
    level = "site_level = { clipping_norm = 0.5, noise_multiplier = 1.5, target_delta = 1e-3 }"
    of = masked_study(
        ("privacy = { ", f"privacy = {{ {level}, "),
        ("federated = { ", 'federated = { strategy = { kind = "fedavg", weighting = "uniform" }, '),
    )
    here = exchange(tmp_path, notes, of)
    packed = here.packed(here.opened(request()), update())
    made = private_grid_of(of, size=210)
    assert made is not None
    whole = words_of(packed.compressed[0], size=210).view(np.int16).astype(int)
    assert np.linalg.norm(whole) <= sensitivity_after_rounding(made.norm, 210)
    assert np.linalg.norm(made.grid.decode(whole.astype(np.int16).view(np.uint16))) == pytest.approx(0.5, rel=0.01)
    assert not list((tmp_path / "residuals").glob("*"))
