"""A number a case: squared or Huber loss on a scale that all sites agree on. Legend: ``B`` batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from common.outcomes import Outcome, ScalarOutcome

if TYPE_CHECKING:
    from torch import Tensor


class RegressionTask(BaseModel):
    """Predict a number in ``unit``.

    Parameters
    ----------
    unit : str
        Unit of the outcome, compared with the sites' data.
    centre, scale : float
        In that unit. The network predicts (value - centre) / scale; both are agreed, never taken from one site.
    loss_kind : "squared" or "huber"
        Huber turns linear beyond one ``scale``, so that one wrong value does not lead the training (Huber 1964).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["regression"] = "regression"
    unit: str
    centre: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    loss_kind: Literal["squared", "huber"] = "squared"

    @property
    def n_outputs(self) -> int:
        return 1

    def targets(self, outcome: Outcome) -> Tensor:
        """Scaled values, float32, shape (n_cases,)."""
        import torch

        if not isinstance(outcome, ScalarOutcome) or outcome.unit != self.unit:
            got = outcome.unit if isinstance(outcome, ScalarOutcome) else type(outcome).__name__
            raise TypeError(f"a regression in {self.unit} needs that outcome, got {got}")
        return torch.from_numpy(((outcome.values - self.centre) / self.scale).astype(np.float32))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss a case: logits (B, 1), targets (B,) -> (B,); half the squared error near zero for both kinds."""
        from torch.nn import functional

        if self.loss_kind == "huber":
            return functional.huber_loss(logits[:, 0], targets, reduction="none", delta=1.0)
        return 0.5 * (logits[:, 0] - targets).square()

    def link(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Predicted values in ``unit``: (n_cases, 1) -> (n_cases, 1)."""
        return logits.astype(np.float64) * self.scale + self.centre
