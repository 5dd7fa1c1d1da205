"""A study that compresses: few bytes, the same bits at all parties, and the same study whatever is killed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Parameters
from common.codec import encode, encoded_size
from common.compression import StochasticInt8
from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.errors import Code
from common.messages import Evaluate, LocalUpdate, Refusal, Reply, Request, Train
from common.models import initial_parameters
from common.rng import derived_seed
from server.broadcast import announce, closing
from server.checkpoint import CheckpointStore
from server.courses import FEDERATED, Course
from server.training import train_group
from server.training_state import TrainingState, unit_name
from tests.server.memory_sites import STUDY, MemorySite, conversation, events, final_digests, members, run, study

SITE_LEVEL = "{ clipping_norm = 0.05, noise_multiplier = 1.0, target_delta = 0.001 }"
UNIFORM = "strategy = { kind = 'fedavg', weighting = 'uniform' }"
CHANGE = "federated = { quorum = 2 }"


def compressing(kind: str = "int8", *changes: tuple[str, str]) -> StudyConfig:
    return study((CHANGE, f'federated = {{ quorum = 2, compression = {{ kind = "{kind}" }} }}'), *changes)


def rounds(n: int) -> tuple[str, str]:
    return "rounds = 2\nmodel", f"rounds = {n}\nmodel"


@pytest.mark.parametrize("kind", ["bf16", "int8", "topk"])
def test_every_site_and_the_coordinator_hold_the_same_bits_in_every_round(tmp_path: Path, kind: str):
    of = compressing(kind, rounds(5))
    sites = members(of, tmp_path)
    opened: dict[int, set[str]] = {}
    for site in sites.values():
        _watch(site, opened)
    state = _train(of, tmp_path, sites)
    assert {number: len(found) for number, found in opened.items()} == dict.fromkeys(range(1, 6), 1)
    trains = [request for request in sites["a"].asked if isinstance(request, Train)]
    assert [len(request.difference) for request in trains] == [0, 1, 1, 1, 1]
    assert state.round_number == 5


def test_it_composes_with_site_level_privacy(tmp_path: Path):
    """The coordinator clips what it decoded, so codes and residuals lengthen nobody's part of the noisy sum."""
    of = study(
        (CHANGE, f"federated = {{ {UNIFORM}, compression = {{ kind = 'int8' }} }}"),
        ("local_only = true", "local_only = false"),
        ("privacy = { minimum_cases = 1 }", f"privacy = {{ minimum_cases = 1, site_level = {SITE_LEVEL} }}"),
        rounds(4),
    )
    sites = members(of, tmp_path)
    opened: dict[int, set[str]] = {}
    for site in sites.values():
        _watch(site, opened)
    state = _train(of, tmp_path, sites)
    assert {number: len(found) for number, found in opened.items()} == dict.fromkeys(range(1, 5), 1)
    assert state.absent == ()
    assert state.parameters.all_finite()


def _watch(site: MemorySite, opened: dict[int, set[str]]) -> None:
    rebuilt = site.exchange.opened

    def watched(request: Train) -> Train:
        whole = rebuilt(request)
        opened.setdefault(request.round_number, set()).add(whole.parameters.digest())
        return whole

    site.exchange.opened = watched  # type: ignore[method-assign]  # looks, and changes nothing


def _train(of: StudyConfig, folder: Path, sites: dict[str, MemorySite], **settings: object) -> TrainingState:
    talk = conversation(of, dict(sites), folder, **settings)
    store = CheckpointStore(folder / "checkpoints", talk.study_digest)
    courses = (Course(FEDERATED, ("a", "b", "c")),)
    return train_group(of, of.study_model("cnn"), courses, 0, {FEDERATED: ()}, talk, store)[FEDERATED]


@pytest.mark.parametrize(("kind", "tolerance"), [("bf16", 0.03), ("int8", 0.03), ("topk", 0.8)])
def test_the_model_is_close_to_that_of_the_study_without(tmp_path: Path, kind: str, tolerance: float):
    reference = _train(study(rounds(6)), tmp_path / "none", members(study(rounds(6)))).parameters.flatten()
    of = compressing(kind, rounds(6))
    start = _start(of).flatten()
    got = _train(of, tmp_path / kind, members(of, tmp_path)).parameters.flatten()
    moved = np.linalg.norm(reference - start)
    assert 0 < np.linalg.norm(got - reference) < tolerance * moved


def _start(of: StudyConfig) -> Parameters:
    entry = of.study_model("cnn")
    return initial_parameters(entry.trained[0], of.model_inputs(0), derived_seed(of.seed, "initial", "cnn"))


@pytest.mark.parametrize("kind", ["int8", "topk"])
@pytest.mark.parametrize("late", ["a", "b"])
def test_silence_and_repetition_change_no_bit(tmp_path: Path, kind: str, late: str):
    """The site trained and wrote its residual, but its answer was lost twice."""
    of = compressing(kind, rounds(4))
    reference = _train(of, tmp_path / "one", members(of, tmp_path / "one"))
    sites, lost = members(of, tmp_path / "two"), []

    def disturb(site: str, request: Request) -> Reply | None:
        if site == late and isinstance(request, Train) and request.round_number in (2, 3) and lost.count(request) < 1:
            lost.append(request)
            sites[site].answer(request)
            return Refusal(Code.SITE_SILENT)
        return None

    state = _train(of, tmp_path / "two", sites, disturb=disturb)
    assert len(lost) >= 2
    assert state.parameters.digest() == reference.parameters.digest()


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


@pytest.mark.parametrize("kind", ["bf16", "int8", "topk"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_coordinator_and_killed_sites_resume_to_the_same_bits(tmp_path: Path, kind: str, after: int):
    of = compressing(kind, rounds(4))
    reference = final_digests(run(of, tmp_path / "one", sites=members(of, tmp_path / "one")))
    asked = []

    def disturb(site: str, request: Request) -> Reply | None:
        if isinstance(request, Train) and request.model == "cnn" and site == "c":
            asked.append(request.round_number)
            if len(asked) > after:
                raise Killed
        return None

    with pytest.raises(Killed):
        run(of, tmp_path / "two", disturb=disturb, sites=members(of, tmp_path / "two"))
    resumed = run(of, tmp_path / "two", sites=members(of, tmp_path / "two"))
    assert final_digests(resumed) == reference
    assert [e for e in events(tmp_path / "two", "answer") if e["code"] == Code.BASE_ABSENT]


def test_a_restarted_site_gets_the_whole_model_in_the_same_round(tmp_path: Path):
    of = compressing("int8", rounds(4))
    reference = _train(of, tmp_path / "one", members(of, tmp_path / "one"))
    sites = members(of, tmp_path / "two")
    restarted = []

    def disturb(site: str, request: Request) -> Reply | None:
        if site == "b" and isinstance(request, Train) and request.round_number == 3 and not restarted:
            restarted.append(site)
            sites["b"].exchange = members(of, tmp_path / "two")["b"].exchange
        return None

    state = _train(of, tmp_path / "two", sites, disturb=disturb)
    assert state.parameters.digest() == reference.parameters.digest()
    assert state.absent == ()
    refused = [e for e in events(tmp_path / "two", "answer") if e["code"] == Code.BASE_ABSENT]
    assert [e["site"] for e in refused] == ["b"]


def test_a_site_that_missed_a_round_gets_the_whole_model_next(tmp_path: Path):
    of = compressing("int8", rounds(4))
    sites = members(of, tmp_path)

    def disturb(site: str, request: Request) -> Reply | None:
        missing = site == "b" and isinstance(request, Train) and request.round_number == 2
        return Refusal(Code.SITE_SILENT) if missing else None

    state = _train(of, tmp_path, sites, disturb=disturb)
    assert state.absent == ("2 b site_silent",)
    trains = {r.round_number: len(r.difference) for r in sites["b"].asked if isinstance(r, Train)}
    assert trains == {1: 0, 3: 0, 4: 1}


@pytest.mark.parametrize("fault", ["plain", "short", "scale", "two ends"])
def test_a_code_of_no_use_leaves_its_site_out_of_the_round(tmp_path: Path, fault: str):
    of = compressing("int8", rounds(2))
    honest = members(of, tmp_path / "honest")

    def disturb(site: str, request: Request) -> Reply | None:
        if site != "b" or not isinstance(request, Train) or request.round_number != 1:
            return None
        reply = honest["b"].answer(request)
        assert isinstance(reply, LocalUpdate)
        data = np.array(reply.compressed[0])
        if fault == "plain":
            return LocalUpdate("cnn", 1, 5, request.parameters, 0.5)
        if fault == "short":
            return LocalUpdate("cnn", 1, 5, Parameters({}), 0.5, (), (data[:-1],))
        if fault == "scale":
            data[:4] = 0xFF
            return LocalUpdate("cnn", 1, 5, Parameters({}), 0.5, (), (data,))
        return LocalUpdate("cnn", 1, 5, Parameters({}), 0.5, (), ())

    state = _train(of, tmp_path, members(of, tmp_path), disturb=disturb)
    assert state.absent == ("1 b message",)


def test_a_code_in_a_study_that_does_not_compress_is_left_out(tmp_path: Path):
    of = study()
    code = np.zeros(StochasticInt8().n_bytes(_start(of).size), np.uint8)

    def disturb(site: str, request: Request) -> Reply | None:
        if site == "b" and isinstance(request, Train) and request.round_number == 1:
            return LocalUpdate("cnn", 1, 5, Parameters({}), 0.5, (), (code,))
        return None

    assert _train(of, tmp_path, members(of, tmp_path), disturb=disturb).absent == ("1 b message",)


def test_state_goes_through_its_checkpoint_unchanged(tmp_path: Path):
    of = compressing("int8", rounds(3))
    sites = members(of, tmp_path)

    def disturb(site: str, request: Request) -> Reply | None:
        if isinstance(request, Train) and request.round_number == 3:
            raise Killed
        return None

    with pytest.raises(Killed):
        _train(of, tmp_path, sites, disturb=disturb)
    store = CheckpointStore(tmp_path / "checkpoints", digest(of))
    unit = store.load(unit_name(Course(FEDERATED, ()), "cnn", 0))
    assert unit is not None
    state = TrainingState.from_unit(unit)
    assert state.broadcast is not None
    assert state.broadcast.difference.result == state.parameters.digest()
    again = state.to_unit()
    assert again.values == unit.values
    assert {k: v.tobytes() for k, v in again.arrays.items()} == {k: v.tobytes() for k, v in unit.arrays.items()}


def test_the_last_round_ends_in_the_exact_sum():
    """Over all rounds nothing is left out: what differences lacked is added at the end."""
    rng = np.random.default_rng(0)
    model = Parameters({"w": rng.normal(size=400).astype(np.float32)})
    exact, former = model.flatten(), None
    for number in range(1, 6):
        change = rng.normal(size=400) * 0.01
        exact += change
        after = model.unflatten(model.flatten() + change)
        if number < 5:
            model, former = announce(StochasticInt8(), model, after, former, seed=0, stream="s", round_number=number)
            assert np.abs(model.flatten() - exact).max() > 1e-6
        else:
            model = closing(after, former)
    np.testing.assert_allclose(model.flatten(), exact, atol=1e-6)


def test_bytes_of_a_warm_round_are_at_most_055_of_the_model():
    """All that a site is sent and sends in a round, headers too, for a network of 0.9 million parameters."""
    text = STUDY.replace("channels = [8], blocks = 0", "channels = [32, 64, 128], blocks = 1")
    text = text.replace("shape = [4, 4, 4]", "shape = [8, 8, 8]")
    text = text.replace(CHANGE, 'federated = { compression = { kind = "int8" } }')
    of = parse(text, StudyConfig, source="study.toml")
    model = _start(of)
    assert 0.7e6 < model.size < 1.1e6
    after = model.unflatten(model.flatten() + np.random.default_rng(0).normal(size=model.size))
    _, broadcast = announce(StochasticInt8(), model, after, None, seed=0, stream="s", round_number=1)
    down = Train(digest(of), 0, "cnn", 2, Parameters({}), difference=(broadcast.difference,))
    up = LocalUpdate("cnn", 2, 100, Parameters({}), 0.5, (), (broadcast.difference.data,))
    assert (encoded_size(encode(down)) + encoded_size(encode(up))) / (4 * model.size) < 0.51


def test_journal_counts_the_bytes_that_travelled(tmp_path: Path):
    of = compressing("int8", rounds(3))
    _train(of, tmp_path, members(of, tmp_path))
    answers = [e for e in events(tmp_path, "answer") if e["site"] == "a"]
    model = 4 * _start(of).size
    assert int(answers[0]["bytes_down"]) > model
    assert all(int(e["bytes_down"]) < 0.3 * model + 400 for e in answers[1:])
    assert all(int(e["bytes_up"]) < 0.3 * model + 400 for e in answers)


def test_evaluation_carries_the_model_whole(tmp_path: Path):
    of = compressing("int8")
    sites = members(of, tmp_path)
    store = run(of, tmp_path, sites=sites)
    found = final_digests(store)
    evaluated = {r.parameters.digest() for r in sites["x"].asked if isinstance(r, Evaluate)}
    assert set(found.values()) == evaluated
    assert re.match(r"training\.", next(iter(found)))
