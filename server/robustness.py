"""The robustness phase: features that change under perturbations leave the table before anything else is learned.

Each trainer measures some of its training cases again under every perturbation of the study and gives sums, from which
the intraclass correlation of every feature over all trainers follows (`common.statistics.reliability`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.config.robustness import StudyRobustnessConfig
from common.config.study import StudyConfig
from common.errors import StatisticError
from common.messages import repeat_table_name
from common.statistics.reliability import FeatureReliability, Reliability, learn_reliability
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import Course
from server.learning import Learner
from server.preparation import measured, require_one_schema
from server.selection import Selected

NAMED = 8
"""Dropped features that the journal names; the checkpoint has all."""


@dataclass(frozen=True, eq=False)
class RobustFeatures:
    """Reliability of all radiomics features in one course and fold, and what the study's limit makes of it."""

    reliability: Reliability
    config: StudyRobustnessConfig

    @property
    def kept(self) -> frozenset[str]:
        return frozenset(self.reliability.keep(minimum=self.config.minimum_icc, decides=self.config.decides))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Features below the limit, the least reliable first, then those that did not vary."""
        kept, ranked = self.kept, sorted(self.reliability.features, key=self._decisive)
        return (*(f.feature for f in ranked if f.feature not in kept), *self.reliability.undefined)

    def left_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """``names`` without the dropped features."""
        dropped = set(self.dropped)
        return tuple(name for name in names if name not in dropped)

    def selected(self) -> Selected:
        """As the first step of selection, for the report."""
        found = [f for f in self.reliability.features if f.feature in self.kept]
        n_before = len(self.reliability.features) + len(self.reliability.undefined)
        score = "ICC, lower end of its interval" if self.config.decides == "lower" else "ICC"
        names = tuple(f.feature for f in found)
        return Selected("robustness", n_before, names, score, {f.feature: self._decisive(f) for f in found})

    def _decisive(self, feature: FeatureReliability) -> float:
        return feature.lower if self.config.decides == "lower" else feature.icc

    def to_unit(self) -> Unit:
        found = self.reliability.features
        arrays = {
            "icc": np.array([f.icc for f in found]),
            "lower": np.array([f.lower for f in found]),
            "upper": np.array([f.upper for f in found]),
            "n_cases": np.array([f.n_cases for f in found], dtype=np.int64),
        }
        names = [f.feature for f in found]
        return Unit(arrays, {"features": names, "undefined": list(self.reliability.undefined)})

    @classmethod
    def from_unit(cls, unit: Unit, config: StudyRobustnessConfig) -> RobustFeatures:
        columns = zip(*(unit.arrays[name].tolist() for name in ("icc", "lower", "upper", "n_cases")), strict=True)
        found = [FeatureReliability(n, *row) for n, row in zip(unit.values["features"], columns, strict=True)]
        return cls(Reliability(tuple(found), tuple(unit.values["undefined"])), config)


def robustness_name(course: Course, fold: int) -> str:
    return f"robustness.{course.name}.fold{fold}"


def robust_features(
    study: StudyConfig, course: Course, fold: int, conversation: Conversation, store: CheckpointStore
) -> RobustFeatures | None:
    """Which features are robust: from the checkpoint, or from the course's trainers; None where the study does not ask.

    Raises
    ------
    StatisticError
        Where no feature reaches the limit.
    FederationError
        Where a trainer refuses, for example because too few of its cases could be measured.
    """
    config = study.robustness
    if config is None:
        return None
    saved = store.load(robustness_name(course, fold))
    if saved is not None:
        return RobustFeatures.from_unit(saved, config)
    parts = [_learned(study, entry.image, config, course, fold, conversation) for entry in study.radiomics]
    features = tuple(feature for part in parts for feature in part.features)
    undefined = tuple(name for part in parts for name in part.undefined)
    found = RobustFeatures(Reliability(features, undefined), config)
    if not found.kept:
        raise StatisticError(
            f"course {course.name}: none of {len(features) + len(undefined)} features has an ICC of at least "
            f"{config.minimum_icc:g} ({config.decides})"
        )
    store.save(robustness_name(course, fold), found.to_unit())
    _tell(found, course, fold, conversation)
    return found


def _learned(
    study: StudyConfig,
    image: str,
    config: StudyRobustnessConfig,
    course: Course,
    fold: int,
    conversation: Conversation,
) -> Reliability:
    table = repeat_table_name(image)
    counts = measured(study, course.trainers, conversation, table=table)
    require_one_schema(counts)
    names = next(iter(counts.values())).feature_names
    learner = Learner(study, course, fold, conversation, phase=f"learn {table}", table=table)
    procedure = learn_reliability(
        names, n_repeats=config.n_perturbations, model=config.model, confidence=config.confidence
    )
    return learner.learn(procedure, ())


def _tell(found: RobustFeatures, course: Course, fold: int, conversation: Conversation) -> None:
    dropped = found.dropped
    named = ", ".join(dropped[:NAMED]) + (f" and {len(dropped) - NAMED} more" if len(dropped) > NAMED else "")
    text = f"{course.name}, fold {fold}: {len(found.kept)} features are robust, {len(dropped)} are dropped"
    conversation.journal.write("note", text=f"{text}: {named}" if dropped else text, course=course.name)
