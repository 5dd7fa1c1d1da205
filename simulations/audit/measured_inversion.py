"""Inversion: findings of a model's single updates under each protection, and the pictures' rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from common.config.study import StudyModel
from server.checkpoint import CheckpointStore, Unit
from simulations.audit.findings import Cell, Finding, Measure
from simulations.audit.measured_membership import Tell
from simulations.audit.pictures import PictureRow
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import (
    NONE,
    NOT_USED,
    PROTECTIONS,
    SECURE_SUM,
    Protection,
    Protections,
    trained_under,
)
from simulations.audit.similarity import Similarity
from simulations.audit.subject import Subject, largest_site
from simulations.audit.updates import (
    Recovered,
    attacker_prior,
    draw_victims,
    reconstruct,
    recovered_row,
    summed_update,
    update_of,
    worst_case,
)
from simulations.audit.workers import in_workers

PICTURED = 4
STARTS = 960
"""Of the attacker's own patches that are tried for each case before the search."""


@dataclass(frozen=True)
class InversionTask:
    """One update to attack."""

    protection: Protection
    batch: int
    number: int


@dataclass(frozen=True, eq=False)
class InversionMeasured:
    """Findings and the rows of the picture at the smallest batch."""

    findings: tuple[Finding, ...]
    rows: tuple[PictureRow, ...]


def measure_inversion(
    subject: Subject,
    entry: StudyModel,
    protections: Protections,
    plan: AuditPlan,
    store: CheckpointStore,
    *,
    tell: Tell,
) -> InversionMeasured:
    """Reconstructions of patches (models that read images) and exact rows (models that read the table)."""
    findings = list(_row_findings(subject, entry, protections, plan)) if entry.model.needs_table else []
    if not entry.model.needs_image:
        return InversionMeasured(tuple(findings), ())
    smallest = min(int(subject.trained_on(site).sum()) for site in subject.course.trainers)
    batches = [batch for batch in plan.batches if batch <= smallest]
    tasks = [InversionTask(p, b, n) for p in protections.measured for b in batches for n in range(plan.victims)]
    found = _all(subject, entry, tasks, plan, store, tell)
    for batch in batches:
        by_protection = {
            p: [found[InversionTask(p, batch, n)] for n in range(plan.victims)] for p in protections.measured
        }
        findings += _patch_findings(entry, batch, by_protection, protections.used)
    rows = tuple(
        _picture_row(subject, found, protections, batches[0], number) for number in range(min(PICTURED, plan.victims))
    )
    return InversionMeasured(tuple(findings), rows if batches else ())


def _all(
    subject: Subject,
    entry: StudyModel,
    tasks: Sequence[InversionTask],
    plan: AuditPlan,
    store: CheckpointStore,
    tell: Tell,
) -> dict[InversionTask, Recovered]:
    """Each task's reconstruction, from its file where an earlier audit with the same steps wrote it."""
    found: dict[InversionTask, Recovered] = {}
    for task in tasks:
        saved = store.load(_name(entry, task, plan))
        if saved is not None:
            found[task] = _from_unit(saved)
    missing = [task for task in tasks if task not in found]
    for task, recovered in in_workers(
        subject, partial(_invert_one, entry=entry, steps=plan.steps), missing, processes=plan.processes
    ):
        store.save(_name(entry, task, plan), _to_unit(recovered))
        found[task] = recovered
        tell(f"{entry.name}: inversion {len(found)} of {len(tasks)}")
    return found


def _invert_one(subject: Subject, task: InversionTask, *, entry: StudyModel, steps: int) -> Recovered:
    victims = draw_victims(subject, batch=task.batch, number=task.number)
    study = trained_under(worst_case(subject.study, entry, task.batch), task.protection, n_cases=largest_site(subject))
    audited = study.study_model(entry.name)
    if task.protection == SECURE_SUM:
        delta = summed_update(subject, study, audited, victims)
    else:
        delta = update_of(subject, study, audited, victims).delta
    prior = attacker_prior(subject, victims.site)
    return reconstruct(subject, audited, victims, delta, prior, steps=steps, starts=STARTS)


def _patch_findings(
    entry: StudyModel,
    batch: int,
    by_protection: Mapping[Protection, Sequence[Recovered]],
    used: tuple[Protection, ...],
) -> list[Finding]:
    target = f"{entry.name}, one step on {batch} case{'s' if batch > 1 else ''}"
    baseline = [case for update in by_protection[NONE] for case in update.baseline]
    figures: tuple[tuple[Measure, str], ...] = (
        ("inversion_ssim", f"{np.mean([case.ssim for case in baseline]):.3f} (mean image)"),
        ("inversion_beyond_mean", "0.000 (mean image)"),
    )
    return [
        Finding(
            attack="gradient inversion",
            target=target,
            measure=measure,
            cells={
                protection: _cell(by_protection[protection], measure)
                if protection in by_protection
                else Cell(None, note=NOT_USED)
                for protection in PROTECTIONS
            },
            chance=chance,
            used=used,
        )
        for measure, chance in figures
    ]


def _cell(updates: Sequence[Recovered], measure: Measure) -> Cell:
    field = measure.removeprefix("inversion_")
    cases = [case for update in updates for case in update.similarities]
    values = [getattr(case, field) for case in cases]
    ranks = [rank for update in updates for rank in update.ranks]
    decoys = np.mean([getattr(case, field) for update in updates for case in update.decoys])
    note = f"{decoys:.3f} with other patients; " + (
        f"PSNR {np.mean([case.psnr_db for case in cases]):.1f} dB, {len(cases)} cases"
        if field == "ssim"
        else f"median place of the true patient {np.median(ranks):.0f} of {updates[0].n_candidates}"
    )
    return Cell(float(np.mean(values)), float(np.min(values)), float(np.max(values)), note)


def _row_findings(subject: Subject, entry: StudyModel, protections: Protections, plan: AuditPlan) -> list[Finding]:
    """The exact inversion at one case: no search, so no file."""
    cells: dict[Protection, Cell] = {protection: Cell(None, note=NOT_USED) for protection in PROTECTIONS}
    for protection in protections.measured:
        found = []
        for number in range(plan.victims):
            victims = draw_victims(subject, batch=1, number=number)
            study = trained_under(worst_case(subject.study, entry, 1), protection, n_cases=largest_site(subject))
            audited = study.study_model(entry.name)
            seen = (
                summed_update(subject, study, audited, victims)
                if protection == SECURE_SUM
                else update_of(subject, study, audited, victims).delta
            )
            likeness = recovered_row(subject, audited, victims, seen)
            if likeness is None:
                return []
            found.append(likeness)
        cells[protection] = Cell(float(np.mean(found)), min(found), max(found), f"{len(found)} cases")
    return [
        Finding(
            attack="exact inversion",
            target=f"{entry.name}, one step on 1 case",
            measure="row_correlation",
            cells=cells,
            chance="about 0",
            used=protections.used,
        )
    ]


def _picture_row(
    subject: Subject,
    found: Mapping[InversionTask, Recovered],
    protections: Protections,
    batch: int,
    number: int,
) -> PictureRow:
    plain = found[InversionTask(NONE, batch, number)]
    panels = {"mean image": (plain.mean, f"SSIM {plain.baseline[0].ssim:.2f}")}
    panels_or_none: dict[str, tuple[np.ndarray, str] | None] = dict(panels)
    for protection in PROTECTIONS:
        name = "no protection" if protection == NONE else protection
        if protection not in protections.measured:
            panels_or_none[name] = None
            continue
        recovered = found[InversionTask(protection, batch, number)]
        likeness = recovered.similarities[0]
        panels_or_none[name] = (
            recovered.found[0],
            f"SSIM {likeness.ssim:.2f}, r {likeness.beyond_mean:.2f}",
        )
    site = draw_victims(subject, batch=batch, number=number).site
    return PictureRow(f"a case of {site}", plain.truth[0], panels_or_none)


def _name(entry: StudyModel, task: InversionTask, plan: AuditPlan) -> str:
    protection = task.protection.replace(" ", "-")
    return f"inversion.{entry.name}.{protection}.batch{task.batch}.steps{plan.steps}.{task.number:03d}"


def _to_unit(recovered: Recovered) -> Unit:
    arrays = {"truth": recovered.truth, "found": recovered.found, "mean": recovered.mean}
    values = {
        "similarities": [asdict(case) for case in recovered.similarities],
        "decoys": [asdict(case) for case in recovered.decoys],
        "ranks": list(recovered.ranks),
        "n_candidates": recovered.n_candidates,
    }
    return Unit(arrays, values)


def _from_unit(unit: Unit) -> Recovered:
    truth, found, mean = (np.asarray(unit.arrays[name], dtype=np.float32) for name in ("truth", "found", "mean"))
    return Recovered(
        similarities=tuple(Similarity(**case) for case in unit.values["similarities"]),
        ranks=tuple(unit.values["ranks"]),
        n_candidates=unit.values["n_candidates"],
        truth=truth,
        found=found,
        mean=mean,
        decoys=tuple(Similarity(**case) for case in unit.values["decoys"]),
    )
