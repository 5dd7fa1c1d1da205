"""What a study predicts: the manifest's columns of the outcome, one type a kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from common.config.fields import ColumnName
from common.config.loading import Frozen, refuse, require
from common.config.study_rules import rising
from common.tasks import ClassificationTask, RegressionTask, SurvivalTask


class ClassOutcomeConfig(Frozen):
    """A column of class labels. With two classes, the second is the event."""

    kind: Literal["classification"]
    column: ColumnName
    values: Annotated[tuple[str, ...], Field(min_length=2)]
    names: Annotated[tuple[str, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _paired(self) -> ClassOutcomeConfig:
        faults: list[str] = []
        pairs = f"{len(self.values)} values, {len(self.names)} names"
        require(len(self.values) == len(self.names), f"values and names must pair up, got {pairs}", faults)
        for kind, entries in (("values", self.values), ("names", self.names)):
            require(len(set(entries)) == len(entries), f"{kind} must differ from one another", faults)
        refuse(faults)
        return self

    def task(self) -> ClassificationTask:
        return ClassificationTask(classes=self.names)


class ScalarOutcomeConfig(Frozen):
    """A column of numbers in ``unit``; the network learns ``(value - centre) / scale``."""

    kind: Literal["regression"]
    column: ColumnName
    unit: str
    centre: float = 0.0
    scale: PositiveFloat = 1.0

    def task(self) -> RegressionTask:
        return RegressionTask(unit=self.unit, centre=self.centre, scale=self.scale)


class SurvivalOutcomeConfig(Frozen):
    """A column that says whether the event came, and one with the days until it or until the last visit.

    Parameters
    ----------
    event_values, censored_values : tuple of str
        Cells that say that the event came, or that it had not come; any other cell is a wrong label.
    interval_ends_days : tuple of float
        Rising ends of the intervals in which the hazard is predicted.
    """

    kind: Literal["survival"]
    event_column: ColumnName
    event_values: Annotated[tuple[str, ...], Field(min_length=1)]
    censored_values: Annotated[tuple[str, ...], Field(min_length=1)]
    time_column: ColumnName
    interval_ends_days: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> SurvivalOutcomeConfig:
        faults = list(rising("interval_ends_days", self.interval_ends_days))
        require(self.event_column != self.time_column, "event_column and time_column must differ", faults)
        both = sorted(set(self.event_values) & set(self.censored_values))
        require(not both, f"values stand for the event and for its absence: {', '.join(both)}", faults)
        refuse(faults)
        return self

    def task(self) -> SurvivalTask:
        return SurvivalTask(interval_ends_days=self.interval_ends_days)


OutcomeConfig = Annotated[ClassOutcomeConfig | ScalarOutcomeConfig | SurvivalOutcomeConfig, Field(discriminator="kind")]
