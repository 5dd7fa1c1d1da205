"""What a study predicts, one type a kind of outcome; aligned with the rows of a `FeatureTable`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class ClassOutcome:
    """Class labels: ``labels`` of shape (n_cases,) index into ``classes``; for two classes, class 1 is the event."""

    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"an outcome has at least 2 classes, got {self.classes}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes are given twice: {self.classes}")
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels are one integer a case, got {self.labels.dtype} of shape {self.labels.shape}")
        if self.labels.size and not ((self.labels >= 0) & (self.labels < len(self.classes))).all():
            raise ValueError(f"labels must lie in 0..{len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> ClassOutcome:
        return ClassOutcome(self.labels[rows], self.classes)


@dataclass(frozen=True, eq=False)
class ScalarOutcome:
    """A number a case, ``values`` of shape (n_cases,) in ``unit``."""

    values: npt.NDArray[np.float64]
    unit: str

    def __post_init__(self) -> None:
        if self.values.ndim != 1:
            raise ValueError(f"a scalar outcome is one number a case, got shape {self.values.shape}")
        if not np.isfinite(self.values).all():
            raise ValueError("a scalar outcome is finite")

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> ScalarOutcome:
        return ScalarOutcome(self.values[rows], self.unit)


@dataclass(frozen=True, eq=False)
class SurvivalOutcome:
    """Right-censored follow-up: ``event`` (n_cases,) bool, ``time_days`` (n_cases,) > 0."""

    event: npt.NDArray[np.bool_]
    time_days: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.event.dtype != np.bool_ or self.event.ndim != 1:
            raise ValueError(f"event is one truth value a case, got {self.event.dtype} of shape {self.event.shape}")
        if self.event.shape != self.time_days.shape:
            raise ValueError(f"{len(self.event)} events, {len(self.time_days)} times")
        if not (np.isfinite(self.time_days) & (self.time_days > 0)).all():
            raise ValueError("time_days must be finite and positive")

    def __len__(self) -> int:
        return len(self.event)

    def take(self, rows: npt.NDArray[np.int64]) -> SurvivalOutcome:
        return SurvivalOutcome(self.event[rows], self.time_days[rows])


Outcome = ClassOutcome | ScalarOutcome | SurvivalOutcome
