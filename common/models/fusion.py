"""Image and table together: the features of the 3D network and the table's columns under one dense layer.

Legend in `common.models.interface`. The sum of a linear model on the table and a network on the image is the smallest
fusion that contains both parts: with the image's weights at zero it is `linear`, with the table's at zero `cnn3d`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from common.models.cnn3d import TrunkConfig, smallest_patch
from common.models.initial import InitialArray, dense, zero_dense
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


class FusionConfig(TrunkConfig):
    """The network's stages, as in `CnnConfig`, beside a linear model on the table."""

    needs_table: ClassVar[bool] = True

    kind: Literal["fusion"] = "fusion"

    def build(self, inputs: ModelInputs) -> nn.Module:
        from common.models.networks.fusion import Fusion

        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        inputs.require_table(self.kind)
        return Fusion(self, inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        inputs.require_table(self.kind)
        return (
            *self.initial_trunk(inputs.n_channels),
            *dense("image_head", self.n_features(inputs.n_channels), inputs.n_outputs),
            *zero_dense("table_head", inputs.n_features, inputs.n_outputs),
        )
