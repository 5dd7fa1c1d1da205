"""Image and table together: the features of the 3D network and the table's columns under one dense layer.

Legend in `common.models.interface`. The sum of a linear model on the table and a network on the image is the smallest
fusion that contains both parts: with the image's weights at zero it is `linear`, with the table's at zero `cnn3d`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from common.models.cnn3d import Trunk, smallest_patch
from common.models.interface import ModelInputs, required
from common.models.linear import zero_linear


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
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        inputs.require_table(self.kind)
        return Fusion(self, inputs)


class Fusion(nn.Module):
    """``image (B, C, D, H, W), table (B, F) -> logits (B, K)``."""

    def __init__(self, config: FusionConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.trunk = Trunk(
            inputs.n_channels, channels=config.channels, group_size=config.group_size, blocks=config.blocks
        )
        self.image_head = nn.Linear(self.trunk.n_features, inputs.n_outputs)
        self.table_head = zero_linear(inputs.n_features, inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        from_image: Tensor = self.image_head(self.trunk(required(image, "image")))
        from_table: Tensor = self.table_head(required(table, "table"))
        return from_image + from_table
