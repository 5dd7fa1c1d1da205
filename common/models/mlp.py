"""Multi-layer perceptron on the table. Legend in `common.models.interface`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from common.models.initial import InitialArray, dense, norm
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


class MlpConfig(BaseModel):
    """Dense layers with LayerNorm and ReLU between them; LayerNorm looks at one case at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True
    centred: ClassVar[bool] = False

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32,)

    def build(self, inputs: ModelInputs) -> nn.Module:
        from common.models.networks.mlp import Mlp

        inputs.require_table(self.kind)
        return Mlp(self, inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_table(self.kind)
        arrays: list[InitialArray] = []
        widths = (inputs.n_features, *self.hidden)
        for layer, (n_in, n_out) in enumerate(pairwise(widths)):  # a layer is dense, norm and relu
            arrays += [*dense(f"body.{3 * layer}", n_in, n_out), *norm(f"body.{3 * layer + 1}", n_out)]
        return (*arrays, *dense("head", widths[-1], inputs.n_outputs))
