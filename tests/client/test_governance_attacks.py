"""A malicious coordinator tries each rule of a hospital's gate: what is refused is named, and only a code leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp

from client import study_at_site
from client.approvals import approve, revoke
from client.flower_app import make_app
from client.identity import make_identity
from client.kill_switch import resume, stop
from client.site import Site
from client.site_key import SiteKey
from common.arrays import Parameters
from common.config.gate import BudgetConfig, GateConfig
from common.config.loading import digest
from common.config.site import CoordinatorConfig, SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, GateError, StateError
from common.messages import (
    AskStatistic,
    Evaluate,
    Finish,
    Hello,
    LocalUpdate,
    MaskedInput,
    Prepare,
    PrivacyEvent,
    Refusal,
    Reply,
    Request,
    TableStep,
    Train,
)
from common.models import initial_parameters
from common.statistics import encode_query
from common.statistics.moments import Imputer, MomentQuery
from common.statistics.table_steps import Keep, encode_steps
from common.version import versions
from common.wire import Limits, decode_message, encode_message
from tests.client.cases import STUDY, row, study, write_case, write_manifest

N_CASES = 12
CLEAN = ("ct_stat_mean", "ct_stat_var", "age")
STEPS = encode_steps([Keep(CLEAN), Imputer(CLEAN, np.zeros(3))])
AGREED = study()
DIGEST = digest(AGREED)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases, and the cache of their features, which every hospital of this file is given a link to."""
    home = tmp_path_factory.mktemp("cases")
    for i in range(N_CASES):
        write_case(home / "images", f"P{i:02d}")
    rows = [row(f"P{i:02d}", malignant=str(i % 2), age=str(40 + i), sex="fm"[i % 2]) for i in range(N_CASES)]
    write_manifest(home / "cases.csv", rows)
    return home


@dataclass
class Hospital:
    """A hospital with a key of its own, in a consortium, that approved what ``studies`` says."""

    config: SiteConfig
    studies: tuple[StudyConfig, ...] = (AGREED,)

    def open(self, **gate: object) -> Site:
        config = self.config.model_copy(update={"gate": GateConfig(**gate)})  # type: ignore[arg-type]  # as each test says
        return Site(config, self.studies)

    def approved(self, of: StudyConfig = AGREED, *, site: str = "north", **gate: object) -> Site:
        opened = self.open(**gate)
        approve(opened.gate.log, of, site=site, key=SiteKey.of(self.config))
        return opened

    def entries(self, event: str = "") -> list[dict[str, Any]]:
        lines = (self.config.state / "audit.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if event in ("", entry["event"])]


@pytest.fixture
def hospital(cases: Path, tmp_path: Path) -> Hospital:
    make_identity(tmp_path / "keys", site="north")
    (tmp_path / "state").mkdir()
    (cases / "cache").mkdir(exist_ok=True)
    (tmp_path / "state" / "cache").symlink_to(cases / "cache")
    keys = {name: tmp_path / "keys" / f"node.{end}" for name, end in (("ca", "ca"), ("node_key", "key"))}
    coordinator = CoordinatorConfig(address="localhost:9", certificate=tmp_path / "keys" / "node.pem", **keys)
    return Hospital(
        SiteConfig(
            site="north",
            manifest=cases / "cases.csv",
            data=cases / "images",
            state=tmp_path / "state",
            minimum_cases=2,
            studies=(tmp_path / "study.toml",),
            coordinator=coordinator,
        )
    )


def parameters(shift: float = 0.0, of: StudyConfig = AGREED) -> Parameters:
    first = initial_parameters(of.study_model("radiomics").model, of.model_inputs(3), 0)
    return Parameters({name: array + np.float32(shift) for name, array in first.items()})


def train(shift: float = 0.0, **changes: object) -> Train:
    request = Train(DIGEST, 0, "radiomics", 1, parameters(shift), STEPS)
    return replace(request, **changes)  # type: ignore[arg-type]  # as each test says


def evaluate(shift: float = 0.0, **changes: object) -> Evaluate:
    request = Evaluate(DIGEST, 0, "radiomics", "test", parameters(shift), STEPS)
    return replace(request, **changes)  # type: ignore[arg-type]


def ask(centre: float = 0.0, **changes: object) -> AskStatistic:
    query = MomentQuery(CLEAN, "all", ("all",), np.full((1, 3), float(centre)), 1)
    return replace(AskStatistic(DIGEST, 0, *encode_query(query), STEPS), **changes)  # type: ignore[arg-type]


def refused(site: Site, request: Request, code: Code, because: str) -> None:
    """The request is refused with ``code``, and the hospital's log says ``because``."""
    n_left = left(site)
    reply = site.answer(request)
    assert isinstance(reply, Refusal), f"{type(request).__name__} was answered"
    assert (reply.code, left(site)) == (code, n_left)
    assert because in list(site.log.read())[-1]["reason"]


def answered(reply: Reply) -> bool:
    return not isinstance(reply, Refusal)


def left(site: Site) -> int:
    return (site.config.state / "audit.jsonl").read_text().count('"event":"left"')


EVERY = [Hello(DIGEST, versions()), Prepare(DIGEST), ask(), train(), evaluate(), Finish(DIGEST, "completed")]


# --- studies ---


def test_a_study_that_nobody_approved(hospital: Hospital):
    site = hospital.open()
    for request in EVERY:
        refused(site, request, Code.STUDY_NOT_APPROVED, "it has no approval")


def test_an_altered_study(hospital: Hospital):
    """One number of the agreed study changed: its digest is another one, which this hospital does not know."""
    altered = digest(study(STUDY, ("minimum_cases = 2", "minimum_cases = 1")))
    site = hospital.approved()
    for request in EVERY:
        refused(site, replace(request, study_digest=altered), Code.STUDY_NOT_APPROVED, "is not one of this hospital's")


def test_a_study_that_was_slipped_into_the_site_file(hospital: Hospital):
    """Whoever can write site.toml, but has no access to the hospital's key, gets nothing answered."""
    slipped = study(STUDY, ("seed = 3", "seed = 4"))
    hospital.studies = (AGREED, slipped)
    refused(hospital.approved(), Hello(digest(slipped), versions()), Code.STUDY_NOT_APPROVED, "it has no approval")


def test_an_approval_that_another_key_signed(hospital: Hospital, tmp_path: Path):
    make_identity(tmp_path / "stranger", site="north")
    other = hospital.config.model_copy(
        update={
            "coordinator": hospital.config.coordinator.model_copy(update={"node_key": tmp_path / "stranger/node.key"})
        }  # type: ignore[union-attr]  # it has one
    )
    site = hospital.open()
    approve(site.gate.log, AGREED, site="north", key=SiteKey.of(other))
    refused(site, train(), Code.STUDY_NOT_APPROVED, "another key signed its approval")


def test_an_approval_of_another_hospital(hospital: Hospital):
    refused(hospital.approved(site="south"), train(), Code.STUDY_NOT_APPROVED, "another key signed its approval")


def test_an_approval_that_is_revoked_while_the_study_runs(hospital: Hospital):
    site = hospital.approved()
    assert answered(site.answer(train()))
    revoke(hospital.open().gate.log, DIGEST, reason="ethics")  # another process
    for request in EVERY:
        refused(site, request, Code.STUDY_NOT_APPROVED, "its approval was revoked")


def test_a_study_without_differential_privacy_where_the_hospital_demands_it(hospital: Hospital):
    refused(
        hospital.approved(require_privacy=True), train(), Code.GATE, "not all that leaves is differentially private"
    )


# --- how much may be asked ---


def test_more_rounds_than_the_hospital_allows(hospital: Hospital):
    refused(hospital.approved(max_rounds=1), train(), Code.GATE, "has 2 rounds, allowed are 1 (gate.max_rounds)")


def test_a_round_beyond_the_studys_last(hospital: Hospital):
    refused(hospital.approved(), train(round_number=3), Code.MESSAGE, "round 3 of radiomics, which has 2")


def test_the_same_round_from_many_crafted_models(hospital: Hospital):
    """Differences between updates from models that differ in one weight would tell of single cases."""
    site = hospital.approved(runs=3)
    assert all(answered(site.answer(train(shift))) for shift in (0.0, 0.1, 0.2))
    refused(site, train(0.3), Code.GATE_LIMIT, "train radiomics 0 1: 3 different questions were asked, allowed are 3")
    assert answered(site.answer(train(0.1)))  # a replay: the same answer again, which tells nothing new
    assert answered(site.answer(train(0.0, round_number=2)))


def test_a_flood_of_evaluations_of_crafted_models(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert all(answered(site.answer(evaluate(shift))) for shift in (0.0, 0.1, 0.2, 0.3))  # 2 hospitals train
    refused(site, evaluate(0.4), Code.GATE_LIMIT, "evaluate radiomics 0 test: 4 different questions")
    assert answered(site.answer(evaluate(0.4, split="train")))


def test_evaluations_are_counted_whatever_part_of_them_is_crafted(hospital: Hospital):
    site = hospital.approved(runs=1)
    crafted = [encode_steps([Keep(CLEAN), Imputer(CLEAN, np.full(3, value))]) for value in (0.1, 0.2, 0.3, 0.4)]
    assert all(answered(site.answer(evaluate(table_steps=steps))) for steps in crafted)
    refused(site, evaluate(), Code.GATE_LIMIT, "evaluate radiomics 0 test: 4 different questions")


def test_a_flood_of_statistics(hospital: Hospital):
    site = hospital.approved(max_statistics=5)
    assert all(answered(site.answer(ask(centre))) for centre in range(5))
    refused(site, ask(5.0), Code.GATE_LIMIT, "statistic training 0: 5 different questions were asked, allowed are 5")


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [(Hello(DIGEST, versions()), 2), (Finish(DIGEST, "aborted"), 2), (train(), 2), (Prepare(DIGEST), 200)],
)
def test_a_flood_of_one_request(hospital: Hospital, request_: Request, allowed: int):
    """How far the preparation is may be asked a hundred times more often than anything else."""
    site = hospital.approved(max_repeats=2)
    assert all(answered(site.answer(request_)) for _ in range(allowed))
    refused(site, request_, Code.GATE_LIMIT, f"asked {allowed} times already, allowed are {allowed}")


def test_a_question_under_masks_is_counted_as_the_question_that_it_is(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert answered(site.answer(train()))
    masked = MaskedInput(DIGEST, "0" * 32, train(0.1), {})
    refused(site, masked, Code.GATE_LIMIT, "train radiomics 0 1: 1 different questions")


def test_a_question_of_one_study_in_the_envelope_of_another(hospital: Hospital):
    masked = MaskedInput(DIGEST, "0" * 32, train(study_digest="0" * 64), {})
    refused(hospital.approved(), masked, Code.MESSAGE, "a question of one study comes under the name of another")


def test_the_same_question_about_one_case_less(hospital: Hospital, tmp_path: Path):
    """The difference of both answers would be that case."""
    everybody = hospital.config.manifest.read_text()
    own = tmp_path / "cases.csv"
    own.write_text(everybody)
    hospital.config = hospital.config.model_copy(update={"manifest": own})
    assert answered(hospital.approved().answer(ask()))
    own.write_text("\n".join(everybody.splitlines()[:-1]) + "\n")
    refused(hospital.open(), ask(), Code.GATE, "cases.csv changed since answers of study")
    assert answered(hospital.approved().answer(ask()))  # the hospital decided that it may go on
    own.write_text(everybody)
    refused(hospital.open(), train(), Code.GATE, "cases.csv changed since answers of study")


# --- restarts ---


def test_a_restart_resets_no_count(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert answered(site.answer(train()))
    refused(hospital.open(runs=1), train(0.1), Code.GATE_LIMIT, "train radiomics 0 1")


ASK_AND_WAIT = """
import sys, time
from pathlib import Path
import client.study_at_site as at_site
from tests.client.test_governance_attacks import Hospital, train
from common.config.site import SiteConfig
def wait(*_args, **_settings):
    print("working", flush=True)
    time.sleep(60)
at_site.train = wait
config = SiteConfig.model_validate_json(sys.argv[1])
Hospital(config).open(runs=1).answer(train())
"""


def test_kill_9_in_the_middle_of_an_answer_resets_no_count(hospital: Hospital):
    hospital.approved(runs=1)
    command = [sys.executable, "-c", ASK_AND_WAIT, hospital.config.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGKILL)
    site = hospital.open(runs=1)
    refused(site, train(0.1), Code.GATE_LIMIT, "train radiomics 0 1: 1 different questions")
    assert answered(site.answer(train()))  # the one that was cut off may be asked again


def test_counts_put_back_from_a_backup(hospital: Hospital):
    """Somebody restores the log of yesterday to reset what was counted: the hospital answers nothing any more."""
    site = hospital.approved(runs=1)
    log = hospital.config.state / "audit.jsonl"
    before = log.read_bytes()
    assert answered(site.answer(train()))
    log.write_bytes(before)
    refused(site, train(0.1), Code.STATE, "was changed or rolled back while fedrad ran")
    with pytest.raises(StateError, match="rolled back"):
        hospital.open()


def test_a_log_that_was_deleted_takes_the_approvals_with_it(hospital: Hospital):
    hospital.approved()
    for name in ("audit.jsonl", "audit.head", "audit.key"):
        (hospital.config.state / name).unlink()
    refused(hospital.open(), train(), Code.STUDY_NOT_APPROVED, "it has no approval")


# --- what is asked ---


def test_a_kind_of_request_that_the_hospital_does_not_answer(hospital: Hospital):
    site = hospital.approved(requests=("Hello", "Prepare", "AskStatistic", "Finish"))
    refused(site, train(), Code.GATE, "requests of kind Train are not answered here (gate.requests)")
    assert answered(site.answer(ask()))


def test_a_kind_of_statistic_that_the_hospital_does_not_answer(hospital: Hospital):
    site = hospital.approved(statistics=("combat_totals",))
    refused(site, ask(), Code.GATE, "statistics of kind moments are not answered here (gate.statistics)")


def test_a_message_larger_than_allowed(hospital: Hospital):
    big = train(table_steps=(*STEPS, TableStep("keep", {"names": tuple("x" * 50 for _ in range(300))})))
    refused(hospital.approved(max_request_mb=0.01), big, Code.GATE, "bytes, allowed are 0.01 MB (gate.max_request_mb)")


def test_a_reply_larger_than_allowed(hospital: Hospital):
    refused(hospital.approved(max_reply_mb=0.0001), train(), Code.GATE, "allowed are 0.0001 MB (gate.max_reply_mb)")


@pytest.mark.parametrize(
    ("request_", "because"),
    [
        (train(fold=1), "fold 1, the study has 1"),
        (evaluate(fold=-1), "fold -1, the study has 1"),
        (ask(fold=7), "fold 7, the study has 1"),
        (train(model="all-cases"), "the study has no model 'all-cases'"),
        (evaluate(model="../x"), "the study has no model '../x'"),
        (ask(table="repeats.ct", table_steps=()), "this study has no table repeats.ct"),
        (Prepare(DIGEST, table="landmarks.mr"), "this study has no table landmarks.mr"),
        (evaluate(split="everything"), "split 'everything'"),
    ],
)
def test_what_the_study_does_not_contain_costs_no_work(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, request_: Request, because: str
):
    site = hospital.approved()
    monkeypatch.setattr(site, "_answer", lambda _: pytest.fail("work was done"))
    refused(site, request_, Code.MESSAGE, because)


def test_a_cohort_smaller_than_the_minimum(hospital: Hospital):
    """Eight cases train and four are tested here."""
    hospital.config = hospital.config.model_copy(update={"minimum_cases": 9})
    site = hospital.approved()
    for request in (ask(), train(), evaluate()):
        refused(site, request, Code.SMALL_CELL, "the minimum here is 9")


def test_an_answer_from_too_few_cases_is_held_back_at_the_door_too(hospital: Hospital, monkeypatch: pytest.MonkeyPatch):
    """Were the check of the rows to fail, the gate would still see how few cases stand behind an answer."""
    site = hospital.approved()
    update = site.answer(train())
    monkeypatch.setattr(site, "_answer", lambda _: replace(update, n_cases=1))
    refused(site, train(), Code.SMALL_CELL, "answer from 1 cases, the minimum here is 2")


def test_an_update_that_tells_no_number_of_cases_leaves_only_if_they_are_enough(hospital: Hospital):
    """Under site-level privacy the number of cases stays here; it was compared with the minimum before training."""
    promise = "minimum_cases = 2, site_level = { clipping_norm = 0.01, noise_multiplier = 1.0, target_delta = 1e-3 }"
    uniform = 'federated = { strategy = { kind = "fedavg", weighting = "uniform" } }'
    private = study(STUDY, ("minimum_cases = 2", promise), ("seed = 3", f"seed = 3\n{uniform}"))
    hospital.studies = (private,)
    request = train(study_digest=digest(private))
    update = hospital.approved(private).answer(request)
    assert isinstance(update, LocalUpdate)
    assert (update.n_cases, update.train_loss) == (1, 0.0)
    hospital.config = hospital.config.model_copy(update={"minimum_cases": 9})
    refused(hospital.open(), request, Code.SMALL_CELL, "8 train cases in fold 0, the minimum here is 9")


def test_an_answer_of_another_kind_than_was_asked_is_held_back(hospital: Hospital, monkeypatch: pytest.MonkeyPatch):
    site = hospital.approved()
    update = site.answer(train())
    monkeypatch.setattr(site, "_answer", lambda _: update)
    refused(site, ask(), Code.GATE, "a LocalUpdate is no answer to a AskStatistic")


def test_updates_leave_filtered(hospital: Hospital):
    site = hospital.approved(updates={"clip_norm": 1e-3, "drop": ["radiomics/*bias"]})
    update = site.answer(train())
    assert update.delta.norm() <= 1e-3 * (1 + 1e-6)  # type: ignore[union-attr]  # it was answered
    (bias,) = [name for name in update.delta if name.endswith("bias")]  # type: ignore[union-attr]
    assert not update.delta[bias].any()  # type: ignore[union-attr]


# --- budget, switch, floods ---

COSTLY = (PrivacyEvent("gaussian", 1.0, 1.0, 10),)


def test_the_budget_is_asked_before_anything_is_computed_and_holds_across_studies(hospital: Hospital):
    site = hospital.approved(budget=BudgetConfig(epsilon=30.0, delta=1e-5))
    site.gate.reserve(DIGEST, COSTLY)
    with pytest.raises(GateError) as caught:
        hospital.open(budget=BudgetConfig(epsilon=30.0, delta=1e-5)).gate.reserve("f" * 64, COSTLY)
    assert caught.value.code == Code.BUDGET_EXCEEDED
    (spent,) = hospital.entries("spent")
    assert 0 < spent["epsilon"] < 30


def test_a_private_round_is_paid_from_the_hospitals_budget_before_it_is_trained(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
):
    promise = "minimum_cases = 2, sample_level = { target_epsilon = 8, target_delta = 1e-3 }"
    private = study(STUDY, ("minimum_cases = 2", promise))
    hospital.studies = (private,)
    request = train(study_digest=digest(private))
    site = hospital.approved(private, budget=BudgetConfig(epsilon=20, delta=1e-3))
    assert answered(site.answer(request))
    (spent,) = hospital.entries("spent")
    assert 0 < spent["epsilon"] < 8
    tight = hospital.open(budget=BudgetConfig(epsilon=spent["epsilon"] * 1.01, delta=1e-3))
    monkeypatch.setattr("client.training.dp_sgd.train_private", lambda *_, **__: pytest.fail("was trained"))
    refused(tight, request, Code.BUDGET_EXCEEDED, "would bring epsilon from")
    assert len(hospital.entries("spent")) == 1


def test_a_budget_put_back_with_both_of_its_files_is_found_by_the_audit_log(hospital: Hospital):
    site = hospital.approved()
    folder = hospital.config.state / "budget"
    site.gate.reserve(DIGEST, COSTLY)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    site.gate.reserve(DIGEST, COSTLY)
    for path, content in before.items():
        path.write_bytes(content)
    with pytest.raises(StateError, match="holds 1 reservations, the audit log noted 2: it was put back"):
        hospital.open().gate.reserve(DIGEST, COSTLY)


def test_a_stopped_hospital_answers_nothing_until_it_resumes(hospital: Hospital):
    site, state = hospital.approved(), hospital.config.state
    stop(state, reason="strange requests at night")
    for request in EVERY:
        refused(site, request, Code.SITE_STOPPED, "stopped: strange requests at night")
    assert resume(state)
    assert not resume(state)
    assert answered(site.answer(train()))


def test_a_file_made_by_hand_stops_too(hospital: Hospital):
    site = hospital.approved()
    (hospital.config.state / "STOPPED").touch()
    refused(site, train(), Code.SITE_STOPPED, "stopped: no reason was given")


def test_a_reply_that_was_computed_when_the_hospital_stopped_does_not_leave(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
):
    site, real = hospital.approved(), study_at_site.train

    def stopped_meanwhile(*args: Any, **settings: Any) -> Any:
        stop(hospital.config.state, reason="now")
        return real(*args, **settings)

    monkeypatch.setattr(study_at_site, "train", stopped_meanwhile)
    refused(site, train(), Code.SITE_STOPPED, "stopped: now")


def test_a_flood_of_refused_requests_does_not_fill_the_disk(hospital: Hospital):
    site = hospital.approved()
    for _ in range(1000):
        assert isinstance(site.answer(train(model="x" * 2000)), Refusal)
    written = hospital.entries("refused")
    assert [entry["times"] for entry in written[99:]] == [100, 128, 256, 512]
    assert max(len(line) for line in (hospital.config.state / "log.jsonl").read_text().splitlines()) < 2000


def test_a_digest_that_is_none_is_not_copied_into_the_log(hospital: Hospital):
    site = hospital.approved()
    refused(site, Finish("x" * 10_000, "aborted"), Code.STUDY_NOT_APPROVED, "is not one of this hospital's")
    assert hospital.entries("refused")[-1]["study"] == "no digest"


def test_everything_that_left_is_in_the_log_with_its_digest(hospital: Hospital):
    site = hospital.approved()
    for request in EVERY:
        assert answered(site.answer(request))
    kinds = [entry["reply"] for entry in hospital.entries("left")]
    assert kinds == ["Welcome", "Prepared", "StatisticSums", "LocalUpdate", "EvaluationSums", "Done"]
    assert [entry["cases"] for entry in hospital.entries("left")] == [0, 0, 8, 8, 4, 0]
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] > 0 for entry in hospital.entries("left"))


def test_a_message_that_is_none_is_counted_and_answered_with_a_code(hospital: Hospital):
    site = hospital.approved()
    app = make_app(site.answer, on_malformed=site.note_malformed, limits=Limits(array_bytes=1000))
    big = encode_message(train(parameters=Parameters({"w": np.zeros(1000, dtype=np.float32)}))).record
    replies = [
        _reply_of(app, record) for record in (RecordDict(), RecordDict({"message": ConfigRecord({"x": 1})}), big)
    ]
    assert [reply.code for reply in replies] == ["message"] * 3
    assert [entry["request"] for entry in hospital.entries("refused")] == ["none"] * 3
    assert "1000" in list(site.log.read())[-1]["reason"]


def _reply_of(app: ClientApp, record: RecordDict) -> Refusal:
    metadata = Metadata(1, "", 0, 1, "", "", 0.0, 60.0, "train")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = decode_message(app(make_message(metadata=metadata, content=record), context).content, Limits())
    assert isinstance(reply, Refusal)
    return reply
