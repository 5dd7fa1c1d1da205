"""Canaries: what the trials show of epsilon, beside what the ledger says that the same trainings cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.messages import PrivacyEvent
from common.privacy.ledger import epsilon, event_from_json, event_to_json
from common.tasks import TrainingConfig
from server.checkpoint import CheckpointStore, Unit
from simulations.audit.canaries import CanaryTrials, run_trials
from simulations.audit.canary_trainings import canary_study
from simulations.audit.findings import Cell, Finding
from simulations.audit.measured_membership import Tell
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import NONE, NOT_USED, PRIVATE, PROTECTIONS, Protection, Protections, sample_level_of
from simulations.audit.subject import Subject
from simulations.audit.workers import in_workers

PIECES = 8
"""Parts that the trials of one setting are cut into, for several processes."""

MOST_EPOCHS = 4


@dataclass(frozen=True)
class CanaryTask:
    """Trials of one setting; ``batch_size`` 0 stands for all cases in each step."""

    protection: Protection
    batch_size: int
    local_epochs: int
    first: int
    count: int


def measure_canaries(
    subject: Subject, protections: Protections, plan: AuditPlan, store: CheckpointStore, *, tell: Tell
) -> tuple[Finding, ...]:
    """The bound with the study's kind of sampling and with all cases in each step; only where two classes are told
    apart on a table.
    """
    n_cases = int(subject.trained_on(subject.course.trainers[0]).sum())
    settings = _settings(subject)
    sampled = min(settings.batch_size, max(1, n_cases // 4))
    epochs = min(settings.local_epochs, MOST_EPOCHS)
    return tuple(
        _finding(subject, protections, plan, store, tell, batch_size=batch_size, local_epochs=epochs)
        for batch_size in (sampled, 0)
    )


def can_plant(subject: Subject) -> bool:
    """Whether there is a table, and two classes to train a linear model for."""
    return subject.study.outcome_kind == "two classes" and any(e.model.needs_table for e in subject.study.models)


def _settings(subject: Subject) -> TrainingConfig:
    """How the study trains its first model on the table."""
    tables = [entry.trained[1] for entry in subject.trained_models if entry.model.needs_table]
    return tables[0] if tables else TrainingConfig()


def _finding(
    subject: Subject,
    protections: Protections,
    plan: AuditPlan,
    store: CheckpointStore,
    tell: Tell,
    *,
    batch_size: int,
    local_epochs: int,
) -> Finding:
    n_cases = int(subject.trained_on(subject.course.trainers[0]).sum())
    level = sample_level_of(subject.study, n_cases=n_cases)
    cells: dict[Protection, Cell] = dict.fromkeys(PROTECTIONS, Cell(None, note=NOT_USED))
    for protection in (NONE, PRIVATE):
        if protection not in protections.measured:
            continue
        trials = _trials(subject, protection, plan, store, tell, batch_size=batch_size, local_epochs=local_epochs)
        bound = trials.bound(delta=level.target_delta)
        tight = "" if np.isnan(bound.gaussian_epsilon) else f", {bound.gaussian_epsilon:.3f} knowing it is Gaussian"
        shown = bound.epsilon if np.isnan(bound.gaussian_epsilon) else max(bound.epsilon, bound.gaussian_epsilon)
        if protection == PRIVATE:
            spent = epsilon(trials.events, level.target_delta, accountant="pld")
            note = f"the ledger says {spent:.3f} at delta {level.target_delta:.2g}; {bound.n_trials} trials{tight}"
            if shown > spent:
                note = f"ABOVE THE LEDGER: {note}"
        else:
            shown, note = bound.epsilon, f"no ledger; {bound.n_trials} trials can show no more"
        cells[protection] = Cell(shown, note=note)
    drawn = f"batches of {batch_size}" if batch_size else "all cases in each step"
    return Finding(
        attack="canaries",
        target=f"linear model, {drawn}, {local_epochs} epoch{'s' if local_epochs > 1 else ''}",
        measure="epsilon_lower_bound",
        cells=cells,
        chance="0.000",
        used=tuple(name for name in protections.used if name == PRIVATE),
    )


def _trials(
    subject: Subject,
    protection: Protection,
    plan: AuditPlan,
    store: CheckpointStore,
    tell: Tell,
    *,
    batch_size: int,
    local_epochs: int,
) -> CanaryTrials:
    """All trials of a setting, from their file where there is one."""
    name = f"canaries.{protection.replace(' ', '-')}.batch{batch_size}.epochs{local_epochs}.{plan.canary_trials}"
    saved = store.load(name)
    if saved is None:
        tasks = [
            CanaryTask(protection, batch_size, local_epochs, first, count)
            for first, count in _pieces(plan.canary_trials)
        ]
        found: dict[int, CanaryTrials] = {}
        for task, trials in in_workers(subject, _run_piece, tasks, processes=plan.processes):
            found[task.first] = trials
            done = sum(len(part.without) + len(part.with_canary) for part in found.values())
            tell(f"canaries, {protection}: trial {done} of {plan.canary_trials}")
        saved = _to_unit([found[first] for first in sorted(found)])
        store.save(name, saved)
    return _from_unit(saved)


def _run_piece(subject: Subject, task: CanaryTask) -> CanaryTrials:
    study = canary_study(
        subject,
        batch_size=task.batch_size or None,
        local_epochs=task.local_epochs,
        private=task.protection == PRIVATE,
    )
    return run_trials(study.trial, study.direction, first=task.first, n_trials=task.count)


def _pieces(n_trials: int) -> Iterator[tuple[int, int]]:
    """First trial and number of trials, even numbers, of each part."""
    size = -(-n_trials // (2 * PIECES)) * 2
    for first in range(0, n_trials, size):
        yield first, min(size, n_trials - first)


def _to_unit(parts: list[CanaryTrials]) -> Unit:
    arrays = {
        "without": np.concatenate([part.without for part in parts]),
        "with_canary": np.concatenate([part.with_canary for part in parts]),
    }
    return Unit(arrays, {"events": [event_to_json(event) for event in parts[0].events]})


def _from_unit(unit: Unit) -> CanaryTrials:
    events: tuple[PrivacyEvent, ...] = tuple(event_from_json(entry) for entry in unit.values["events"])
    without, with_canary = (np.asarray(unit.arrays[key], dtype=np.float64) for key in ("without", "with_canary"))
    return CanaryTrials(without, with_canary, events)
