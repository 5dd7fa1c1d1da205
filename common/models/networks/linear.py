"""The module of `common.models.linear`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.models.interface import ModelInputs
from common.models.weights import required


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
