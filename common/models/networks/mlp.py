"""The module of `common.models.mlp`."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from common.models.interface import ModelInputs
from common.models.mlp import MlpConfig
from common.models.weights import required


class Mlp(nn.Module):
    """``table (B, F) -> logits (B, K)``."""

    def __init__(self, config: MlpConfig, inputs: ModelInputs) -> None:
        super().__init__()
        widths = (inputs.n_features, *config.hidden)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        logits: Tensor = self.head(self.body(required(table, "table")))
        return logits
