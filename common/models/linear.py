"""Linear model on the table: with a classification task, logistic regression. Legend in `common.models.interface`."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from common.models.interface import ModelInputs, required


class LinearConfig(BaseModel):
    """One weight a column and output, and a bias; starts at zero, so the first round depends on no draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True

    kind: Literal["linear"] = "linear"

    def build(self, inputs: ModelInputs) -> nn.Module:
        inputs.require_table(self.kind)
        return Linear(inputs)


class Linear(nn.Module):
    """``table (B, F) -> logits (B, K)``."""

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__()
        self.head = zero_linear(inputs.n_features, inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        logits: Tensor = self.head(required(table, "table"))
        return logits


def zero_linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """A dense layer whose weight and bias are zero."""
    layer = nn.Linear(n_inputs, n_outputs)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return layer
