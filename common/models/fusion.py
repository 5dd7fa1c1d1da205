"""Image and table together: the features of the 3D network and the table's columns under one dense layer.

Legend in `common.models.interface`. The sum of a linear model on the table and a network on the image is the smallest
fusion that contains both parts: with the image's weights at zero it is `linear`, with the table's at zero `cnn3d`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from common.models.cnn3d import initial_trunk, n_pooled, smallest_patch
from common.models.initial import InitialArray, dense, zero_dense
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


class FusionConfig(BaseModel):
    """The network's stages, as in `CnnConfig`, beside a linear model on the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = True
    needs_table: ClassVar[bool] = True

    kind: Literal["fusion"] = "fusion"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32)
    group_size: PositiveInt = 8
    blocks: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _groups_divide(self) -> FusionConfig:
        odd = [n for n in self.channels if n % self.group_size]
        if odd:
            raise ValueError(f"channels {odd} are no multiples of group_size {self.group_size}")
        return self

    def build(self, inputs: ModelInputs) -> nn.Module:
        from common.models.networks.fusion import Fusion

        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        inputs.require_table(self.kind)
        return Fusion(self, inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        inputs.require_table(self.kind)
        return (
            *initial_trunk(inputs.n_channels, self.channels, blocks=self.blocks),
            *dense("image_head", n_pooled(self.channels), inputs.n_outputs),
            *zero_dense("table_head", inputs.n_features, inputs.n_outputs),
        )
