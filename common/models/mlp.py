"""Multi-layer perceptron on the table. Legend in `common.models.interface`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from common.models.interface import ModelInputs, required


class MlpConfig(BaseModel):
    """Dense layers with LayerNorm and ReLU between them; LayerNorm looks at one case at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32,)

    def build(self, inputs: ModelInputs) -> nn.Module:
        inputs.require_table(self.kind)
        return Mlp(self, inputs)


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
