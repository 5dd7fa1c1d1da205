"""One canary trial: the hospital's own private training of the linear model, on its cases with or without the canary.

The mechanism (noise, sampling rate, clipping norm) is what the hospital would solve for its cases and the canary, and
is the same in both worlds: neighbours differ in a case, not in the mechanism. The model's update is brought back to the
sum of the noised gradients, so that the number of cases, which is public, tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from client.training.dp_sgd import Mechanism, train_private
from client.training.loop import Position, TrainingData, train
from client.training.privacy_plan import privacy_plan
from common.config.privacy import SampleLevelConfig
from common.config.study import StudyConfig, StudyModel
from common.messages import PrivacyEvent
from common.models import LinearConfig, ModelInputs
from common.models.weights import get_parameters
from common.outcomes import ClassOutcome
from common.rng import SystemNoise, generator
from common.tasks import TrainingConfig
from simulations.audit.canaries import Vector, canary_row
from simulations.audit.protections import sample_level_of
from simulations.audit.subject import Subject

LEARNING_RATE = 0.01
CANARY_LENGTH = 10.0
"""In clipping norms: at even odds the canary's gradient is five norms long, so it is clipped."""


@dataclass(frozen=True, eq=False)
class CanaryStudy:
    """A linear model, one hospital's training table and a canary beside it.

    Parameters
    ----------
    table : ndarray of float32, shape (n, F)
    outcome : ClassOutcome
        Of two classes.
    canary : ndarray of float64, shape (F,)
        Its outcome is 1.
    mechanism : Mechanism or None
        None for plain training.
    """

    study: StudyConfig
    settings: TrainingConfig
    table: npt.NDArray[np.float32]
    outcome: ClassOutcome
    canary: Vector
    mechanism: Mechanism | None

    @property
    def direction(self) -> Vector:
        """Where the canary moves weights and bias, shape (F + 1,)."""
        return np.append(self.canary, 1.0)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        return () if self.mechanism is None else (self.mechanism.event,)

    def trial(self, number: int, has_canary: bool) -> tuple[Vector, tuple[PrivacyEvent, ...]]:
        """Train once; the sum of the gradients that the update tells, shape (F + 1,), and what it cost."""
        data = self._data(has_canary=has_canary)
        task = self.study.outcome.task()
        module = LinearConfig().build(ModelInputs(0, (0, 0, 0), self.table.shape[1], task.n_outputs))
        position = Position(1, 1)
        if self.mechanism is None:
            draws = generator(self.study.seed, "audit", "canary", number)
            train(module, data, task=task, settings=self.settings, position=position, generator=draws)
            expected = float(self.settings.batch_size)
        else:
            train_private(
                module,
                data,
                task=task,
                settings=self.settings,
                position=position,
                mechanism=self.mechanism,
                source=SystemNoise(),
            )
            expected = self.mechanism.sampling_rate * data.n_cases
        return get_parameters(module).flatten() * expected / LEARNING_RATE, self.events

    def _data(self, *, has_canary: bool) -> TrainingData:
        table, outcome = self.table, self.outcome
        if has_canary:
            table = np.vstack([table, self.canary[None].astype(np.float32)])
            outcome = ClassOutcome(np.append(outcome.labels, 1), outcome.classes)
        return TrainingData(None, torch.from_numpy(table), self.study.outcome.task().targets(outcome))


def canary_study(subject: Subject, *, batch_size: int | None, local_epochs: int, private: bool) -> CanaryStudy:
    """The first training hospital's table with a canary.

    Parameters
    ----------
    batch_size : int, optional
        Expected cases of a step; all of them where it is not given.
    private : bool
        Whether the study's sample-level privacy, or the one of the what-if, protects the training.
    """
    site = subject.course.trainers[0]
    trained = subject.trained_on(site)
    table = subject.table(site).values[trained].astype(np.float32)
    outcome = subject.datasets[site].outcome.take(np.flatnonzero(trained))
    assert isinstance(outcome, ClassOutcome)  # asked for by the caller
    level = sample_level_of(subject.study, n_cases=len(table))
    settings = TrainingConfig(
        optimiser="sgd",
        learning_rate=LEARNING_RATE,
        schedule="constant",
        batch_size=batch_size or len(table) + 1,
        local_epochs=local_epochs,
    )
    entry = StudyModel(name="canary", model=LinearConfig(), training=settings, rounds=1)
    study = subject.study.model_copy(update={"models": (entry,), "local_only": False})
    canary = canary_row(table, length=CANARY_LENGTH * level.clipping_norm)
    mechanism = _mechanism(study, level, len(table) + 1) if private else None
    return CanaryStudy(study, settings, table, outcome, canary, mechanism)


def _mechanism(study: StudyConfig, level: SampleLevelConfig, n_cases: int) -> Mechanism:
    alone = level.model_copy(update={"spare_rounds": 0})
    return privacy_plan(study, alone, {0: n_cases}, n_courses=1)["canary", 0]
