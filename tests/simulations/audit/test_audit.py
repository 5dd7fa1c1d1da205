"""A whole audit of a small study: findings, pictures, report, and what a second run does not repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config.loading import digest
from common.errors import ConfigError, StateError
from server.checkpoint import CheckpointStore
from server.training_state import TrainingState, unit_name
from simulations.audit.audit import audit
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import NONE, NOT_USED, PRIVATE, SECURE_SUM
from simulations.audit.report import terminal_table, write_report
from simulations.audit.subject import FOLD, open_subject
from tests.simulations.audit.subjects import study, subject, with_trainings

PLAN = AuditPlan(
    attacks=("membership", "inversion", "statistics"),
    models=("logistic", "cnn"),
    what_if=(SECURE_SUM,),
    shadows=8,
    victims=1,
    batches=(1, 2),
    steps=3,
)
GATE = ("privacy = { minimum_cases = 1 }", "privacy = { minimum_cases = 1, release_gate = { max_tpr_at_1_fpr = 1 } }")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory):
    of = with_trainings(subject(tmp_path_factory.mktemp("audit"), study(GATE)), "logistic", "cnn")
    told: list[str] = []
    result, pictures = audit(of, PLAN, tell=told.append)
    write_report(of.study, result, of.folder / "audit", pictures)
    return of, result, pictures, told


def test_each_attack_has_findings_and_each_protection_a_cell(audited):
    _, result, _, _ = audited
    attacks = {finding.attack.partition(":")[0] for finding in result.findings}
    assert attacks == {"membership", "gradient inversion", "exact inversion", "property inference", "differencing"}
    for finding in result.findings:
        assert finding.cells[NONE].value is not None
        assert finding.cells[PRIVATE].note == "not used in this study"
        assert finding.cells[SECURE_SUM].value is not None or "finished model" in finding.cells[SECURE_SUM].note


def test_pictures_and_reports_are_written(audited):
    of, result, pictures, _ = audited
    folder = of.folder / "audit"
    assert {picture.file for picture in pictures} == {
        "membership-logistic.png",
        "membership-cnn.png",
        "inversion-cnn.png",
    }
    for picture in pictures:
        assert (folder / picture.file).read_bytes().startswith(b"\x89PNG")
    content = json.loads((folder / "audit.json").read_text())
    assert len(content["findings"]) == len(result.findings)
    assert content["breaches"] == []
    page = (folder / "audit.html").read_text()
    assert "release gate is open" in page
    assert page.count("data:image/png;base64,") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert terminal_table(result).row_count == len(result.findings)


def test_a_second_audit_repeats_no_training_and_finds_the_same(audited):
    of, result, _, told = audited
    again: list[str] = []
    second, _ = audit(of, PLAN, tell=again.append)
    assert told
    assert again == []
    assert second == result


PLAIN = "privacy = { minimum_cases = 1 }"
UNIFORM = 'federated = { strategy = { kind = "fedavg", weighting = "uniform" } }'
PROTECTED = {
    "sample level": (", sample_level = { target_epsilon = 8, target_delta = 1e-3 }", "", (PRIVATE,)),
    "site level": (
        ", site_level = { clipping_norm = 0.5, noise_multiplier = 1, target_delta = 1e-3 }",
        UNIFORM,
        (PRIVATE,),
    ),
    "masks": (", secure_aggregation = {}", "", (SECURE_SUM,)),
    "int8": ("", 'federated = { compression = { kind = "int8" } }', ()),
}
"""Of a study's privacy, what else it needs, and what the audit calls it."""


@pytest.mark.parametrize("protection", PROTECTED)
def test_a_study_that_protects_itself_is_judged_by_what_its_protection_leaves(tmp_path: Path, protection: str):
    asked, federated, used = PROTECTED[protection]
    changes = (
        (PLAIN, f"privacy = {{ minimum_cases = 1{asked} }}\n{federated}"),
        ('{ name = "b" }', '{ name = "b" }, { name = "c" }'),
    )
    of = with_trainings(subject(tmp_path, study(*changes), n_cases={"a": 40, "b": 30, "c": 30}), "logistic")
    plan = AuditPlan(
        attacks=("membership", "inversion"), models=("logistic",), shadows=8, victims=1, batches=(1,), steps=2
    )
    result, _ = audit(of, plan, tell=lambda _: None)
    assert result.findings
    for finding in result.findings:
        assert finding.used == used
        for name in (PRIVATE, SECURE_SUM):
            assert (finding.cells[name].note == NOT_USED) == (name not in used)
        if finding.attack == "exact inversion":
            assert finding.cells[NONE].value == pytest.approx(1.0, abs=1e-4)
            assert finding.as_run() is finding.cells[used[0] if used else NONE]
            # noise of the site level is the coordinator's own, so it sees single updates without
            assert (finding.as_run().value < 0.9) == (protection in ("sample level", "masks"))


def test_other_cases_than_the_studys_are_noticed(tmp_path: Path):
    of = with_trainings(subject(tmp_path), "logistic")
    store = CheckpointStore(of.folder / "checkpoints", digest(of.study))
    state = of.state("logistic")
    other = TrainingState(4, state.parameters.unflatten(state.parameters.flatten() + 1.0), state.server)
    store.save(unit_name(of.course, "logistic", FOLD), other.to_unit())
    with pytest.raises(StateError, match="its cases or the software have changed"):
        audit(of, AuditPlan(attacks=("membership",), models=("logistic",), shadows=8), tell=print)


def test_an_unfinished_study_is_refused(tmp_path: Path):
    with pytest.raises(StateError, match="let the study finish first"):
        audit(subject(tmp_path), AuditPlan(attacks=("membership",), models=("logistic",)), tell=print)


def test_a_model_that_the_study_does_not_train_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="trains no model forest; it trains logistic, overfit, cnn"):
        audit(subject(tmp_path), AuditPlan(models=("forest",)), tell=print)


def test_a_folder_without_a_study_is_refused(tmp_path: Path):
    with pytest.raises(StateError, match="holds no study run"):
        open_subject(tmp_path, data=tmp_path)
