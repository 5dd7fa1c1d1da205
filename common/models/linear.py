"""Linear model on the table: with a classification task, logistic regression. Legend in `common.models.interface`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from common.models.initial import InitialArray, zero_dense
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


class LinearConfig(BaseModel):
    """One weight a column and output, and a bias; starts at zero, so the first round depends on no draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True
    centred: ClassVar[bool] = False

    kind: Literal["linear"] = "linear"

    def build(self, inputs: ModelInputs) -> nn.Module:
        from common.models.networks.linear import Linear

        inputs.require_table(self.kind)
        return Linear(inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_table(self.kind)
        return zero_dense("head", inputs.n_features, inputs.n_outputs)
