"""A solved model on its way to the sites: the fitted model and, where the study asks for it, its calibration map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import MessageError, StatisticError
from common.messages import TableStep
from common.statistics.calibration import IsotonicMap, PlattMap
from common.statistics.codec import decode_fields, encode_fields
from common.statistics.columns import Matrix
from common.statistics.fitted import FittedModel, decode_model, encode_model
from common.tables import FeatureTable

CalibrationMap = PlattMap | IsotonicMap

MAPS: Mapping[str, type[CalibrationMap]] = {"platt": PlattMap, "isotonic": IsotonicMap}
_KIND_OF = {map_class: kind for kind, map_class in MAPS.items()}


@dataclass(frozen=True, eq=False)
class Solution:
    """A fitted model and the map of its probabilities."""

    model: FittedModel
    calibration: CalibrationMap | None = None

    def predict(self, table: FeatureTable) -> Matrix:
        """What the model predicts, recalibrated where there is a map.

        Raises
        ------
        StatisticError
            Where the model gives a number that is not finite, or the table does not fit.
        """
        predicted = self.model.predict(table)
        if not np.isfinite(predicted).all():
            raise StatisticError("the model gives predictions that are not finite")
        return predicted if self.calibration is None else self.calibration.apply(predicted)


def encode_solution(solution: Solution) -> tuple[TableStep, ...]:
    """One entry for the model, one for the map where there is one."""
    parts = [TableStep(*encode_model(solution.model))]
    if solution.calibration is not None:
        parts.append(TableStep(_KIND_OF[type(solution.calibration)], encode_fields(solution.calibration)))
    return tuple(parts)


def decode_solution(parts: Sequence[TableStep]) -> Solution:
    """The solution that arrived; MessageError where anything is not as agreed."""
    if not 1 <= len(parts) <= 2:
        raise MessageError(f"a solution has a model and at most one map, got {len(parts)} parts")
    model = decode_model(parts[0].kind, parts[0].values)
    if len(parts) == 1:
        return Solution(model)
    kind = parts[1].kind
    if kind not in MAPS:
        raise MessageError(f"no calibration map of kind {kind!r}; there are {', '.join(MAPS)}")
    return Solution(model, decode_fields(MAPS[kind], parts[1].values))
