"""Rounds: what is aggregated, in which order, who is absent, and when a round cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Parameters, add, weighted_mean
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError
from common.messages import LocalUpdate, Refusal, Reply, Request, Train
from common.models import initial_parameters
from common.rng import derived_seed
from server.checkpoint import CheckpointStore, MappedParameters
from server.courses import FEDERATED, Course, groups_of
from server.training import train_group
from server.training_state import TrainingState, unit_name
from simulations.in_process import Disturbance
from tests.server.memory_sites import MemorySite, conversation, events, members, study

SITES = ("a", "b", "c")
COURSE = Course(FEDERATED, SITES)


def train(
    of: StudyConfig, folder: Path, *, disturb: Disturbance | None = None, sites: dict[str, MemorySite] | None = None,
    threads: int = 1,
) -> TrainingState:  # fmt: skip
    """The image model of the study, trained by all three sites."""
    talk = conversation(of, dict(sites or members(of)), folder, disturb=disturb, threads=threads)
    store = CheckpointStore(folder / "checkpoints", talk.study_digest)
    return train_group(of, of.study_model("cnn"), (COURSE,), 0, {FEDERATED: ()}, talk, store)[FEDERATED]


def start(of: StudyConfig) -> Parameters:
    entry = of.study_model("cnn")
    return initial_parameters(entry.model, of.model_inputs(0), derived_seed(of.seed, "initial", "cnn"))


def only(request: Request, round_number: int) -> bool:
    return isinstance(request, Train) and request.round_number == round_number


def test_a_round_is_the_weighted_mean_of_what_the_sites_send(tmp_path: Path):
    of = study(("rounds = 2", "rounds = 1"))
    state = train(of, tmp_path)
    updates = []
    for site, member in members(of).items():
        if site in SITES:
            reply = member.answer(Train(digest(of), 0, "cnn", 1, start(of)))
            assert isinstance(reply, LocalUpdate)
            updates.append((reply.delta, float(reply.n_cases)))
    expected = add(start(of), weighted_mean(updates))
    np.testing.assert_allclose(state.parameters.flatten(), expected.flatten(), atol=1e-7)
    assert [h.n_cases for h in state.history] == [int(n) for _, n in updates]
    assert (state.round_number, state.absent) == (1, ())


@pytest.mark.parametrize("threads", [1, 3])
def test_the_order_of_asking_and_threads_do_not_change_a_bit(tmp_path: Path, threads: int):
    of = study()
    reference = train(of, tmp_path / "one")
    shuffled = dict(reversed(members(of).items()))
    other = train(of, tmp_path / "two", sites=shuffled, threads=threads)
    assert other.parameters.digest() == reference.parameters.digest()
    assert other.history == reference.history


@pytest.mark.parametrize("late", ["a", "b", "c"])
def test_a_site_that_was_silent_once_changes_no_bit(tmp_path: Path, late: str):
    of = study()
    reference = train(of, tmp_path / "undisturbed")
    silenced = []

    def disturb(site: str, request: Request) -> Reply | None:
        if site == late and only(request, 1) and len(silenced) < 2:
            silenced.append(site)
            return Refusal(Code.SITE_SILENT)
        return None

    state = train(of, tmp_path / "disturbed", disturb=disturb)
    assert len(silenced) == 2
    assert state.parameters.digest() == reference.parameters.digest()
    assert state.absent == ()


def corrupt(kind: str, request: Train, reply: LocalUpdate) -> Reply:
    delta = reply.delta
    first = next(iter(delta))
    return {
        "nan": replace(reply, delta=Parameters({**delta, first: np.full_like(delta[first], np.nan)})),
        "layout": replace(reply, delta=Parameters({first: delta[first]})),
        "dtype": replace(reply, delta=Parameters({n: a.astype(np.float64) for n, a in delta.items()})),
        "late": replace(reply, round_number=request.round_number + 1),
        "model": replace(reply, model="logistic"),
        "kind": request,
        "silent": Refusal(Code.SITE_SILENT),
        "small": Refusal(Code.SMALL_CELL),
    }[kind]  # type: ignore[return-value]  # "kind" is no reply, which is what is tested


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("nan", "message"),
        ("layout", "message"),
        ("dtype", "message"),
        ("model", "message"),
        ("kind", "message"),
        ("late", "late"),
        ("silent", "site_silent"),
        ("small", "small_cell"),
    ],
)
def test_a_round_goes_on_without_an_update_of_no_use_and_names_its_site(tmp_path: Path, kind: str, word: str):
    """A quorum of 2 of 3: site b's update of round 1 is left out, that of round 2 counts again."""
    of = study()
    spoiled = members(of)

    def disturb(site: str, request: Request) -> Reply | None:
        if site == "b" and isinstance(request, Train) and request.round_number == 1:
            honest = spoiled["b"].answer(request)
            assert isinstance(honest, LocalUpdate)
            return corrupt(kind, request, honest)
        return None

    state = train(of, tmp_path, disturb=disturb)
    assert state.absent == (f"1 b {word}",)
    assert [(h.round_number, h.site) for h in state.history] == [(1, "a"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]
    assert state.parameters.all_finite()
    without_b = train(
        of,
        tmp_path / "gone",
        disturb=lambda site, request: Refusal(Code.SITE_SILENT) if site == "b" and only(request, 1) else None,
    )
    assert state.parameters.digest() == without_b.parameters.digest()


@pytest.mark.parametrize(("quorum", "enough"), [("quorum = 1", True), ("quorum = 2", False), ("quorum = 3", False)])
def test_below_the_quorum_the_round_cannot_be_and_names_who_is_absent(tmp_path: Path, quorum: str, enough: bool):
    of = study(("quorum = 2", quorum))

    def disturb(site: str, request: Request) -> Reply | None:
        return Refusal(Code.SITE_SILENT) if site in "ac" and only(request, 2) else None

    if enough:
        assert train(of, tmp_path, disturb=disturb).absent == ("2 a site_silent", "2 c site_silent")
        assert [(line["round_number"], line["sites"]) for line in events(tmp_path, "round")] == [(1, 3), (2, 1)]
        return
    with pytest.raises(FederationError) as caught:
        train(of, tmp_path, disturb=disturb)
    assert str(caught.value) == (
        f"round 2 of cnn: 1 sites sent an update, expected {quorum[-1]}; absent (round, site, reason): "
        "2 a site_silent; 2 c site_silent"
    )
    saved = CheckpointStore(tmp_path / "checkpoints", digest(of)).load(unit_name(COURSE, "cnn", 0))
    assert saved is not None
    assert TrainingState.from_unit(saved).round_number == 1
    assert train(of, tmp_path).parameters.digest() == train(of, tmp_path / "fresh").parameters.digest()


def test_with_no_site_at_all_everyone_is_named(tmp_path: Path):
    with pytest.raises(FederationError, match=r"0 sites sent an update, expected 2; .*1 a gate; 1 b gate; 1 c gate"):
        train(study(), tmp_path, disturb=lambda site, request: Refusal(Code.GATE))


def test_without_a_quorum_all_sites_are_needed(tmp_path: Path):
    of = study(("federated = { quorum = 2 }\n", ""))
    with pytest.raises(FederationError, match="2 sites sent an update, expected 3"):
        train(of, tmp_path, disturb=lambda site, request: Refusal(Code.GATE) if site == "b" else None)


def test_a_trained_model_is_not_trained_again(tmp_path: Path):
    of = study()
    first = train(of, tmp_path)
    sites = members(of)
    again = train(of, tmp_path, sites=sites)
    assert again.parameters.digest() == first.parameters.digest()
    assert (again.history, again.absent) == (first.history, first.absent)
    assert not any(member.asked for member in sites.values())


def test_local_courses_run_side_by_side_and_none_sees_another(tmp_path: Path):
    of = study()
    sites = members(of)
    talk = conversation(of, dict(sites), tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", talk.study_digest)
    group = groups_of(of)[1]
    tables = {course.name: () for course in group}
    together = train_group(of, of.study_model("cnn"), group, 0, tables, talk, store)
    assert list(together) == ["local-a", "local-b", "local-c"]
    for course in group:
        store_alone = CheckpointStore(tmp_path / course.name, talk.study_digest)
        alone = train_group(of, of.study_model("cnn"), (course,), 0, tables, talk, store_alone)
        assert alone[course.name].parameters.digest() == together[course.name].parameters.digest()
    assert len({state.parameters.digest() for state in together.values()}) == 3


def test_the_learning_curve_is_in_the_journal(tmp_path: Path):
    train(study(), tmp_path)
    rounds = events(tmp_path, "round")
    assert [(line["round_number"], line["rounds"], line["sites"]) for line in rounds] == [(1, 2, 3), (2, 2, 3)]


@pytest.mark.parametrize(
    "strategy",
    [
        '{ kind = "fedprox", mu = 0.5 }',
        '{ kind = "fedadam", learning_rate = 0.05 }',
        '{ kind = "fedavg", weighting = "uniform" }',
    ],
)
def test_every_strategy_trains_and_resumes_with_its_state(tmp_path: Path, strategy: str):
    of = study(("federated = { quorum = 2 }", f"federated = {{ quorum = 2, strategy = {strategy} }}"))
    whole = train(of, tmp_path / "whole")

    def stop(site: str, request: Request) -> Reply | None:
        return Refusal(Code.GATE) if only(request, 2) else None

    with pytest.raises(FederationError):
        train(of, tmp_path / "parts", disturb=stop)
    assert train(of, tmp_path / "parts").parameters.digest() == whole.parameters.digest()
    assert whole.parameters.digest() != start(of).digest()


def test_a_large_model_lies_in_its_file_and_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of = study()
    expected = train(of, tmp_path / "small").parameters.digest()
    monkeypatch.setattr("server.training_state.MAPPED_BYTES", 0)
    state = train(of, tmp_path / "large")
    again = train(of, tmp_path / "large")  # from its last checkpoint
    for parameters in (state.parameters, again.parameters):
        assert isinstance(parameters, MappedParameters)
        assert parameters.digest() == expected
