"""FedProx: FedAvg whose sites are held near the round's start by a proximal term (Li et al. 2020, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.strategies.fedavg import FedAvg
from common.strategies.interface import Weighting


class FedProxConfig(BaseModel):
    """``kind = "fedprox"``; ``mu`` is the weight of the proximal term, 0 is FedAvg."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fedprox"] = "fedprox"
    weighting: Weighting = "n_cases"
    mu: Annotated[float, Field(ge=0)]

    def build(self) -> FedProx:
        return FedProx(mu=self.mu, weighting=self.weighting)


class FedProx(FedAvg):
    """The server's half is FedAvg's; the site adds ``mu / 2 * ||w - w_round||^2`` to its loss."""

    def __init__(self, *, mu: float, weighting: Weighting = "n_cases") -> None:
        super().__init__(weighting=weighting)
        self.mu = mu

    def penalty(self, weights: Sequence[Any], reference: Sequence[Any]) -> Any:
        squares = [((w - w0) ** 2).sum() for w, w0 in zip(weights, reference, strict=True)]
        return self.mu / 2 * sum(squares[1:], start=squares[0])
