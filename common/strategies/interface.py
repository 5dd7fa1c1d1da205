"""What every aggregation strategy offers; each lives in one file with both its halves.

``n`` sites send deltas ``d_i`` from ``n_i`` cases; a strategy turns them into the next parameters and its own next
state, taking one update at a time, in the order in which they come: the federation's fixed order of sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from common.arrays import Parameters, Vector, WeightedSum
from common.errors import FederationError
from common.messages import LocalUpdate

Weighting = Literal["n_cases", "uniform"]


@dataclass(frozen=True, eq=False)
class ServerState:
    """What a strategy remembers between rounds: named vectors of the size of the model, saved in every checkpoint."""

    vectors: Mapping[str, Vector] = field(default_factory=dict)


class Strategy(Protocol):
    """Both halves of an aggregation algorithm."""

    def aggregate(
        self, parameters: Parameters, updates: Iterable[LocalUpdate], state: ServerState
    ) -> tuple[Parameters, ServerState]:
        """Next parameters and state; no update at all is an error, a zero delta changes nothing."""
        ...

    def penalty(self, weights: Sequence[Any], reference: Sequence[Any]) -> Any:
        """What a site adds to its loss; tensors or arrays of equal shapes. Zero for most strategies."""
        ...


def mean_delta(parameters: Parameters, updates: Iterable[LocalUpdate], weighting: Weighting) -> Vector:
    """Weighted mean of the deltas in float64, shape (size,); one update is held at a time.

    Raises
    ------
    FederationError
        Without updates, or where an update has another layout or is not finite.
    """
    running = WeightedSum(np.zeros(parameters.size))
    for update in updates:
        if update.delta.layout != parameters.layout:
            raise FederationError(f"update of {update.model} has another layout than the model")
        if not update.delta.all_finite():
            raise FederationError(f"update of {update.model} in round {update.round_number} is not finite")
        weight = float(update.n_cases) if weighting == "n_cases" else 1.0
        running = running.add(update.delta, weight)
        del update  # so that it is gone when the next one is put together
    if running.weight == 0:
        raise FederationError("no site sent an update")
    return running.mean()
