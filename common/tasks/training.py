"""How a site trains in one round: part of what all parties of a study agree to."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class TrainingConfig(BaseModel):
    """Settings of the one training loop (`client.training.loop`).

    The objective is the mean loss a case plus ``l2 / 2`` times the squared norm of the dense layers' weights. It is the
    same for one site, for the federation and for pooled data, whatever the optimiser; so the penalty is part of the
    gradient (no decoupled weight decay, whose strength would depend on the schedule).

    Parameters
    ----------
    optimiser : "adam" or "sgd"
        Adam (Kingma and Ba 2015) or gradient descent with ``momentum``. Its state lives for one round: a round can be
        repeated after a crash with an equal result, and no state but the parameters is shared.
    learning_rate : float
        Peak of the schedule.
    schedule : "constant" or "cosine"
        Over the *whole* study, rounds times local epochs: "cosine" falls to zero at the end of the last round.
    warmup : float
        Share of the study over which the rate first rises linearly.
    momentum : float
        Of "sgd".
    batch_size : int
        Largest batch; an epoch is split into equal batches of at most this size. Under DP-SGD the expected size of a
        Poisson sample, and an epoch has as many steps as cases fill.
    local_epochs : int
        Passes over a site's cases a round.
    l2 : float
        Strength of the penalty. Convolutions are left out: GroupNorm undoes their scale, so a penalty on it would
        change the step size and nothing else.
    gradient_clip : float or None
        Largest norm of a batch's gradient.
    augment : "none", "flips" or "flips_and_turns"
        Of the image and its ROI together: mirror along each axis; exchange axes of equal length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: PositiveInt = 16
    local_epochs: PositiveInt = 1
    l2: Annotated[float, Field(ge=0)] = 0.0
    gradient_clip: PositiveFloat | None = None
    augment: Literal["none", "flips", "flips_and_turns"] = "none"

    def rate(self, done: float) -> float:
        """Learning rate where ``done`` (0 to 1) of the whole study's steps are behind."""
        if not 0 <= done <= 1:
            raise ValueError(f"the share of the study that is done lies in 0..1, got {done}")
        if done < self.warmup:
            return self.learning_rate * done / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        falling = (done - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * falling))
