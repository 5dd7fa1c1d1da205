"""Shadow models: the study's training repeated on random halves of the cases, so that an attacker knows each case's
scores with and without it.

One shadow is one file, written when it is finished: an audit that was cut off goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from common.config.study import StudyConfig, StudyModel
from common.rng import derived_seed, generator
from server.checkpoint import CheckpointStore, Unit
from simulations.audit.intervals import Scores
from simulations.audit.retraining import Retrained, confidences, redrawn, retrain
from simulations.audit.subject import Subject
from simulations.audit.workers import in_workers

Mask = npt.NDArray[np.bool_]

FINISHED, UPDATE = "finished", "update"
VIEWS = (FINISHED, UPDATE)
"""What is attacked: the finished model, or what each hospital's own updates did to its cases in a few rounds."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One training as the attacker sees it: which cases it had, and how sure it is of each.

    Parameters
    ----------
    member : ndarray of bool, shape (n_cases,)
        Over the cases of all hospitals, in sorted order of hospitals.
    scores : mapping of view to ndarray of float64, shape (n_cases,)
    """

    member: Mask
    scores: Mapping[str, Scores]

    def to_unit(self) -> Unit:
        return Unit({"member": self.member.astype(np.int8), **self.scores}, {})

    @classmethod
    def from_unit(cls, unit: Unit) -> Observation:
        scores = {view: np.asarray(unit.arrays[view], dtype=np.float64) for view in VIEWS}
        return cls(unit.arrays["member"].astype(np.bool_), scores)


@dataclass(frozen=True)
class ShadowTask:
    """Which model is trained under which settings; ``variant`` names them in the file."""

    model: str
    variant: str
    study: StudyConfig


def observe(subject: Subject, entry: StudyModel, trained: Retrained, member: Mask) -> Observation:
    """How sure a training is of every case: its own hospital's update is what a coordinator would look at."""
    finished, gained = [], []
    for site in subject.course.trainers:
        finished.append(confidences(subject, entry, trained.parameters, site))
        gains = [
            confidences(subject, entry, after, site) - confidences(subject, entry, before, site)
            for before, after in trained.updates[site]
        ]
        gained.append(np.sum(gains, axis=0))
    return Observation(member, {FINISHED: np.concatenate(finished), UPDATE: np.concatenate(gained)})


def study_members(subject: Subject) -> Mask:
    """The cases that the study itself trained on, over all hospitals."""
    return np.concatenate([subject.trained_on(site) for site in subject.course.trainers])


def shadow(subject: Subject, number: int, *, task: ShadowTask) -> Observation:
    """Train one shadow: as many cases of each hospital as the study trains on, drawn anew for each shadow."""
    entry = task.study.study_model(task.model)
    datasets, members = {}, []
    for site in subject.course.trainers:
        rng = generator(subject.study.seed, "audit", "shadow", number, site)
        n_cases, n_train = len(subject.trained_on(site)), int(subject.trained_on(site).sum())
        rows = np.sort(rng.permutation(n_cases)[:n_train])
        datasets[site] = redrawn(subject.datasets[site], rows)
        member = np.zeros(n_cases, dtype=np.bool_)
        member[rows] = True
        members.append(member)
    seed = derived_seed(subject.study.seed, "audit", "shadow", task.variant, number) % 2**31
    trained = retrain(subject, entry, study=task.study, datasets=datasets, seed=seed)
    return observe(subject, entry, trained, np.concatenate(members))


def train_shadows(
    subject: Subject,
    task: ShadowTask,
    *,
    count: int,
    store: CheckpointStore,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[Observation, ...]:
    """``count`` shadows, from their files where there are any.

    Parameters
    ----------
    progress : callable, optional
        Called with the number of finished shadows after each.
    """
    missing = [number for number in range(count) if store.load(_name(task, number)) is None]
    done = count - len(missing)
    work = partial(shadow, task=task)
    for number, observation in in_workers(subject, work, missing, processes=processes):
        store.save(_name(task, number), observation.to_unit())
        done += 1
        if progress is not None:
            progress(done)
    units = [store.load(_name(task, number)) for number in range(count)]
    return tuple(Observation.from_unit(unit) for unit in units if unit is not None)


def _name(task: ShadowTask, number: int) -> str:
    return f"shadow.{task.model}.{task.variant}.{number:04d}"
