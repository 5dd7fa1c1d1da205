"""FedOpt: the mean delta is a pseudo-gradient for an optimiser at the server (Reddi et al. 2021, algorithm 2).

``kind = "fedadam"`` and ``kind = "fedyogi"`` differ in the second moment; ``beta_1 = beta_2 = 0`` normalises each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from common.arrays import Parameters, moved
from common.messages import LocalUpdate
from common.strategies.interface import ServerState, Weighting, mean_delta

Beta = Annotated[float, Field(ge=0, lt=1)]


class FedOptConfig(BaseModel):
    """Server step size ``learning_rate``, moments ``beta_1`` and ``beta_2``, and ``tau``, the floor of the scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedadam", "fedyogi"]
    weighting: Weighting = "n_cases"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    beta_1: Beta = 0.9
    beta_2: Beta = 0.99
    tau: Annotated[float, Field(gt=0)] = 1e-3

    def build(self) -> FedOpt:
        return FedOpt(self)


class FedOpt:
    """FedAdam and FedYogi without bias correction, as in the paper."""

    def __init__(self, config: FedOptConfig) -> None:
        self.config = config

    def aggregate(
        self, parameters: Parameters, updates: Iterable[LocalUpdate], state: ServerState
    ) -> tuple[Parameters, ServerState]:
        c = self.config
        delta = mean_delta(parameters, updates, c.weighting)
        first = c.beta_1 * state.vectors.get("first", np.zeros(parameters.size)) + (1 - c.beta_1) * delta
        before = state.vectors.get("second", np.full(parameters.size, c.tau**2))
        square = delta**2
        if c.kind == "fedadam":
            second = c.beta_2 * before + (1 - c.beta_2) * square
        else:
            second = before - (1 - c.beta_2) * square * np.sign(before - square)
        step = c.learning_rate * first / (np.sqrt(second) + c.tau)
        return moved(parameters, step), ServerState({"first": first, "second": second})

    def penalty(self, weights: Sequence[Any], reference: Sequence[Any]) -> Any:
        return 0.0
