"""The budget and the kill switch, and a log that keeps up with floods."""

from __future__ import annotations

from dataclasses import replace
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp

from client import study_at_site
from client.flower_app import make_app
from client.kill_switch import resume, stop
from client.privacy_budget import PrivacyBudget
from common.arrays import Parameters
from common.config.gate import BudgetConfig
from common.config.loading import digest
from common.errors import Code, GateError, StateError
from common.messages import (
    Finish,
    PrivacyEvent,
    Refusal,
)
from common.wire import Limits, decode_message, encode_message
from tests.client.cases import STUDY, study
from tests.client.malicious.hospital import (
    DIGEST,
    EVERY,
    Hospital,
    answered,
    refused,
    train,
)

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


def test_a_budget_written_anew_with_more_and_cheaper_lines_is_found_by_the_audit_log(hospital: Hospital):
    site = hospital.approved(budget=BudgetConfig(epsilon=30.0, delta=1e-5))
    site.gate.reserve(DIGEST, COSTLY)
    rmtree(hospital.config.state / "budget")
    for _ in range(2):
        PrivacyBudget.of(hospital.config).reserve(DIGEST, [PrivacyEvent("gaussian", 1e6, 1.0, 1)])
    with pytest.raises(StateError, match="holds 2 reservations, the audit log noted 1: it was put back or rewritten"):
        hospital.open(budget=BudgetConfig(epsilon=30.0, delta=1e-5)).gate.reserve(DIGEST, COSTLY)


@pytest.mark.parametrize("how", ["put back", "deleted"])
def test_a_studys_own_ledger_put_back_or_deleted_is_found_by_the_audit_log(hospital: Hospital, how: str):
    """Else the study would be answered beyond its target, where the hospital's own budget has room."""
    promise = "minimum_cases = 2, sample_level = { target_epsilon = 8, target_delta = 1e-3 }"
    private = study(STUDY, ("minimum_cases = 2", promise))
    hospital.studies = (private,)
    request = train(study_digest=digest(private))
    site = hospital.approved(private)
    ledger = hospital.config.state / "privacy" / digest(private)[:16] / "training"
    assert answered(site.answer(request))
    before = {path: path.read_bytes() for path in ledger.iterdir()}
    assert answered(site.answer(replace(request, round_number=2)))
    rmtree(ledger)
    n_left = 0
    if how == "put back":
        ledger.mkdir()
        for path, content in before.items():
            path.write_bytes(content)
        n_left = 1
    again = hospital.open()
    reason = f"holds {n_left} reservations, the audit log noted 2: it was put back"
    refused(again, replace(request, round_number=2), Code.STATE, reason)


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
