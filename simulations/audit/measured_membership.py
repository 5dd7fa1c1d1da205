"""Membership: the findings of a model under each protection, and the curves that are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.config.study import StudyModel
from common.errors import StateError
from server.checkpoint import CheckpointStore
from simulations.audit.findings import Cell, Finding
from simulations.audit.intervals import Curve
from simulations.audit.membership import Attack, likelihood_ratio, loss_threshold
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
from simulations.audit.retraining import retrain
from simulations.audit.shadows import (
    FINISHED,
    UPDATE,
    VIEWS,
    Observation,
    ShadowTask,
    observe,
    study_members,
    train_shadows,
)
from simulations.audit.subject import Subject, largest_site

Tell = Callable[[str], None]
"""Shown to whoever waits."""

TARGETS: Mapping[str, str] = {FINISHED: "finished model", UPDATE: "updates of single hospitals"}


@dataclass(frozen=True, eq=False)
class MembershipMeasured:
    """Findings, and the curves of the likelihood-ratio attack by what was attacked and protection."""

    findings: tuple[Finding, ...]
    curves: Mapping[str, Curve]


def measure_membership(
    subject: Subject,
    entry: StudyModel,
    protections: Protections,
    plan: AuditPlan,
    store: CheckpointStore,
    *,
    tell: Tell,
) -> MembershipMeasured:
    """Both attacks on the finished model and on single updates, under each protection.

    Raises
    ------
    StateError
        If training the study's model again, without privacy noise, does not end in the study's very bits: then the
        cases or the software are no longer the study's, and the audit would be of something else.
    """
    attacks: dict[tuple[str, str], dict[Protection, Attack]] = {}
    for protection in protections.measured:
        if protection == SECURE_SUM:
            continue
        target, shadows = _trainings(subject, entry, protection, protections, plan, store, tell)
        for view in VIEWS:
            for attack in (loss_threshold(target, shadows, view), likelihood_ratio(target, shadows, view)):
                attacks.setdefault((attack.name, view), {})[protection] = attack
    findings = tuple(
        _finding(entry, name, view, by_protection, protections) for (name, view), by_protection in attacks.items()
    )
    curves = {
        f"{TARGETS[view]}, {protection if protection != NONE else 'no protection'}": attack.curve
        for (name, view), by_protection in attacks.items()
        for protection, attack in by_protection.items()
        if name == "likelihood ratio"
    }
    return MembershipMeasured(findings, curves)


def _trainings(
    subject: Subject,
    entry: StudyModel,
    protection: Protection,
    protections: Protections,
    plan: AuditPlan,
    store: CheckpointStore,
    tell: Tell,
) -> tuple[Observation, tuple[Observation, ...]]:
    """The study's model trained again, and its shadows."""
    study = trained_under(subject.study, protection, n_cases=largest_site(subject))
    trained = retrain(subject, entry, study=study)
    if protection == NONE and not protections.used:
        expected, got = subject.state(entry.name).parameters.digest(), trained.parameters.digest()
        if got != expected:
            raise StateError(
                f"model {entry.name} trained again has digest {got[:12]}, the study's is {expected[:12]}: its cases or "
                "the software have changed since, so this would audit something else"
            )
    target = observe(subject, entry, trained, study_members(subject))
    task = ShadowTask(entry.name, protection.replace(" ", "-"), study)
    shadows = train_shadows(
        subject,
        task,
        count=plan.shadows,
        store=store,
        processes=plan.processes,
        progress=lambda done: tell(f"{entry.name}, {protection}: shadow {done} of {plan.shadows}"),
    )
    return target, shadows


def _finding(
    entry: StudyModel, name: str, view: str, attacks: Mapping[Protection, Attack], protections: Protections
) -> Finding:
    cells: dict[Protection, Cell] = {}
    for protection in PROTECTIONS:
        if protection in attacks:
            cells[protection] = _cell(attacks[protection])
        elif protection == SECURE_SUM and protection in protections.measured:
            cells[protection] = Cell(
                None,
                note="the finished model is the same"
                if view == FINISHED
                else "no single update is seen; the sums are in the finished model",
            )
        else:
            cells[protection] = Cell(None, note=NOT_USED)
    return Finding(
        attack=f"membership: {name}",
        target=f"{entry.name}, {TARGETS[view]}",
        measure="tpr_at_1_fpr",
        cells=cells,
        chance="0.010",
        used=protections.used,
    )


def _cell(attack: Attack) -> Cell:
    rate, over = attack.rate, attack.over_shadows_interval
    note = f"AUC {rate.auc:.2f}; over shadows {attack.over_shadows:.3f} ({over.low:.3f} to {over.high:.3f})"
    return Cell(rate.rate, rate.interval.low, rate.interval.high, note)
