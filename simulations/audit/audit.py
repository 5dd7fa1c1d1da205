"""`fedrad audit`: open the study's folder, attack, report, and say whether the release gate is open."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from common.config.loading import digest
from common.errors import ConfigError
from server.checkpoint import CheckpointStore
from simulations.audit.findings import AuditResult, Finding, breaches
from simulations.audit.measured_canaries import can_plant, measure_canaries
from simulations.audit.measured_inversion import measure_inversion
from simulations.audit.measured_membership import Tell, measure_membership
from simulations.audit.measured_statistics import measure_statistics
from simulations.audit.pictures import inversion_picture, roc_picture
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import Protections, in_words
from simulations.audit.report import Picture, terminal_table, write_report
from simulations.audit.subject import Subject, open_subject

FOLDER = "audit"


def run_audit(out: Path, data: Path, plan: AuditPlan, *, console: Console) -> bool:
    """Audit a simulated study; everything is written below ``out/audit``.

    Returns
    -------
    bool
        True where the study has no release gate, or it is open.

    Raises
    ------
    StateError
        If ``out`` holds no finished simulated study, or its cases have changed.
    ConfigError
        If the plan names a model that the study does not train.
    """
    subject = open_subject(out, data=data, processes=plan.processes)
    with console.status("auditing") as status:
        result, pictures = audit(subject, plan, tell=status.update)
    write_report(subject.study, result, out / FOLDER, pictures)
    console.print(terminal_table(result))
    for note in result.notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"report: {out / FOLDER / 'audit.html'}", highlight=False, soft_wrap=True)
    gate = subject.study.privacy.release_gate
    if gate is None:
        console.print("the study has no [privacy.release_gate]: nothing is judged")
        return True
    refused = breaches(gate, result)
    for sentence in refused:
        console.print(f"[red]not to be released:[/] {sentence}", highlight=False, soft_wrap=True)
    if not refused:
        console.print("[green]the release gate is open[/]: every measured figure is within the study's limits")
    return not refused


def audit(subject: Subject, plan: AuditPlan, *, tell: Tell) -> tuple[AuditResult, list[Picture]]:
    """All findings and pictures of a plan; what is finished is on disk, so that an audit can go on where it was."""
    protections = Protections.of_training(subject.study, what_if=plan.what_if)
    folder = subject.folder / FOLDER
    store = CheckpointStore(folder / "checkpoints", digest(subject.study))
    findings: list[Finding] = []
    notes: list[str] = []
    pictures: list[Picture] = []
    for name in _models(subject, plan):
        entry = subject.study.study_model(name)
        if "membership" in plan.attacks:
            measured = measure_membership(subject, entry, protections, plan, store, tell=tell)
            findings += measured.findings
            file = f"membership-{name}.png"
            roc_picture(measured.curves, folder / file, title=f"Membership of cases: {name}, {plan.shadows} shadows")
            pictures.append(Picture(file, f"Likelihood-ratio attack on {name}: rates on logarithmic axes."))
        if "inversion" in plan.attacks:
            inverted = measure_inversion(subject, entry, protections, plan, store, tell=tell)
            findings += inverted.findings
            if inverted.rows:
                file = f"inversion-{name}.png"
                inversion_picture(inverted.rows, folder / file, title=f"What one update of {name} shows of a patient")
                caption = (
                    f"Middle slices reconstructed from one update of {name} on {min(plan.batches)} case, outline: ROI. "
                    "r: correlation beyond the mean image."
                )
                pictures.append(Picture(file, caption))
    if "statistics" in plan.attacks:
        statistics = measure_statistics(subject, plan)
        findings += statistics
        if not statistics:
            notes.append("The study has no table, so its statistics were not attacked.")
    if "canaries" in plan.attacks:
        if can_plant(subject):
            findings += measure_canaries(subject, protections, plan, store, tell=tell)
        else:
            notes.append("No canaries: they need a table and an outcome of two classes.")
    solved = [entry.name for entry in subject.study.models if entry.solved is not None]
    if solved:
        notes.append(f"Solved models are not attacked: {', '.join(solved)}. They have no updates and no rounds.")
    result = AuditResult(
        subject.study.name, digest(subject.study), in_words(subject.study), tuple(findings), tuple(notes)
    )
    return result, pictures


def _models(subject: Subject, plan: AuditPlan) -> tuple[str, ...]:
    trained = tuple(entry.name for entry in subject.trained_models)
    strangers = sorted(set(plan.models) - set(trained))
    if strangers:
        known = ", ".join(trained) or "none"
        raise ConfigError("fedrad audit", [f"the study trains no model {', '.join(strangers)}; it trains {known}"])
    return tuple(name for name in trained if not plan.models or name in plan.models)
