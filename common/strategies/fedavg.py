"""FedAvg: the mean of the sites' deltas, weighted by their cases (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from common.arrays import Parameters, moved
from common.messages import LocalUpdate
from common.strategies.interface import ServerState, Weighting, mean_delta


class FedAvgConfig(BaseModel):
    """``kind = "fedavg"``; ``weighting`` by ``n_cases`` or ``uniform`` (needed for site-level privacy)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedavg"] = "fedavg"
    weighting: Weighting = "n_cases"

    def build(self) -> FedAvg:
        return FedAvg(weighting=self.weighting)


class FedAvg:
    """``w + sum(n_i d_i) / sum(n_i)``."""

    def __init__(self, *, weighting: Weighting = "n_cases") -> None:
        self.weighting: Weighting = weighting

    def aggregate(
        self, parameters: Parameters, updates: Iterable[LocalUpdate], state: ServerState
    ) -> tuple[Parameters, ServerState]:
        delta = mean_delta(parameters, updates, self.weighting)
        return moved(parameters, delta), state

    def penalty(self, weights: Sequence[Any], reference: Sequence[Any]) -> Any:
        return 0.0
