"""Time to an event in agreed intervals: a hazard an interval (Gensheimer and Narasimhan 2019, PeerJ 7:e6257).

Cox's partial likelihood compares each event with all cases still at risk: it couples cases, so it is no sum over cases,
a mini-batch or a site changes it, and per-sample clipping has no meaning. The likelihood of discrete hazards is a sum
over cases; site losses add up to the pooled one. Legend: ``B`` batch, ``K`` intervals.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.outcomes import Outcome, SurvivalOutcome

if TYPE_CHECKING:
    from torch import Tensor


class SurvivalTask(BaseModel):
    """Predict the hazard in each interval of follow-up.

    Parameters
    ----------
    interval_ends_days : tuple of float
        Rising ends of the K intervals; the first begins at 0. What happens later counts as censored at the last end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["survival"] = "survival"
    interval_ends_days: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ends_rise(self) -> SurvivalTask:
        if any(a >= b for a, b in pairwise(self.interval_ends_days)):
            raise ValueError(f"interval_ends_days must rise, got {self.interval_ends_days}")
        return self

    @property
    def n_outputs(self) -> int:
        return len(self.interval_ends_days)

    def targets(self, outcome: Outcome) -> Tensor:
        """Survived intervals and the interval of the event, float32, shape (n_cases, 2 K), zeros and ones.

        A case counts as having survived an interval it was followed to the end of; a censored case counts in the
        interval of its censoring where it was followed for at least half of it (the paper's equation 4).
        """
        import torch

        if not isinstance(outcome, SurvivalOutcome):
            raise TypeError(f"a survival task needs a survival outcome, got {type(outcome).__name__}")
        ends = np.asarray(self.interval_ends_days)
        starts = np.concatenate([[0.0], ends[:-1]])
        time = outcome.time_days[:, None]
        event = outcome.event[:, None]
        survived = np.where(event, time > ends, time >= (starts + ends) / 2)
        died = event & (time > starts) & (time <= ends)
        return torch.from_numpy(np.hstack([survived, died]).astype(np.float32))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood a case: logits (B, K), targets (B, 2 K) -> (B,)."""
        from torch.nn import functional

        survived, died = targets.chunk(2, dim=1)
        # log(1 - hazard) = -softplus(logit), log(hazard) = -softplus(-logit)
        return (survived * functional.softplus(logits) + died * functional.softplus(-logits)).sum(dim=1)

    def link(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Probability of surviving past each interval's end: (n_cases, K) -> (n_cases, K), falling along a row."""
        survive_one = 1.0 / (1.0 + np.exp(np.clip(logits.astype(np.float64), -500.0, 500.0)))
        return np.cumprod(survive_one, axis=1, dtype=np.float64)
