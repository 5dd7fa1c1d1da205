"""Classes: logits, cross-entropy a case, probabilities. Legend: ``B`` batch, ``K`` outputs.

Two classes have one logit (that of class 1, the event), more classes one logit each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.outcomes import ClassOutcome, Outcome

if TYPE_CHECKING:
    from torch import Tensor

BALANCED = "balanced"


class ClassificationTask(BaseModel):
    """Predict one of ``classes``.

    Parameters
    ----------
    classes : tuple of str
        At least two; the position is the label. Of two, the second is the event.
    class_weights : "none", "balanced" or tuple of float
        Factor of each class's loss. "balanced" is n / (K n_k) with counts over *all* sites: hand them over by
        `with_class_counts`; a weight from one site's counts would give each site its own objective.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["classification"] = "classification"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(gt=0)], ...] = "none"

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> ClassificationTask:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes are given twice: {self.classes}")
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.classes):
            raise ValueError(f"{len(self.class_weights)} class_weights for {len(self.classes)} classes")
        return self

    @property
    def n_outputs(self) -> int:
        return 1 if len(self.classes) == 2 else len(self.classes)

    def with_class_counts(self, counts: tuple[int, ...]) -> ClassificationTask:
        """The same task with "balanced" turned into numbers; unchanged where the weights are not "balanced".

        Parameters
        ----------
        counts : tuple of int
            Training cases of each class over all sites.
        """
        if self.class_weights != BALANCED:
            return self
        if len(counts) != len(self.classes) or min(counts) < 1:
            raise ValueError(f"balanced weights need a case of each class of {self.classes}, got counts {counts}")
        weights = tuple(sum(counts) / (len(counts) * count) for count in counts)
        return self.model_copy(update={"class_weights": weights})

    def targets(self, outcome: Outcome) -> Tensor:
        """Labels, int64, shape (n_cases,)."""
        import torch

        if not isinstance(outcome, ClassOutcome) or outcome.classes != self.classes:
            raise TypeError(f"a classification into {self.classes} needs that outcome, got {_described(outcome)}")
        return torch.from_numpy(outcome.labels.astype(np.int64))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted cross-entropy a case: logits (B, K), targets (B,) -> (B,)."""
        import torch
        from torch.nn import functional

        if self.class_weights == BALANCED:
            raise ValueError("balanced class weights need the counts over all sites: call with_class_counts first")
        if self.n_outputs == 1:
            losses = functional.binary_cross_entropy_with_logits(
                logits[:, 0], targets.to(logits.dtype), reduction="none"
            )
        else:
            losses = functional.cross_entropy(logits, targets, reduction="none")
        if isinstance(self.class_weights, tuple):
            losses = losses * torch.tensor(self.class_weights, dtype=logits.dtype, device=logits.device)[targets]
        return losses

    def link(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Probabilities of the classes: (n_cases, K) -> (n_cases, n_classes), float64, rows sum to 1."""
        scores = logits.astype(np.float64)
        if self.n_outputs == 1:
            scores = np.hstack([np.zeros_like(scores), scores])
        powers: npt.NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def _described(outcome: Outcome) -> str:
    return f"classes {outcome.classes}" if isinstance(outcome, ClassOutcome) else type(outcome).__name__
