"""The module of `common.models.fusion`."""

from __future__ import annotations

from torch import Tensor, nn

from common.models.fusion import FusionConfig
from common.models.interface import ModelInputs
from common.models.networks.cnn3d import Trunk
from common.models.networks.linear import zero_linear
from common.models.weights import required


class Fusion(nn.Module):
    """``image (B, C, D, H, W), table (B, F) -> logits (B, K)``."""

    def __init__(self, config: FusionConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.trunk = Trunk(inputs.n_channels, config)
        self.image_head = nn.Linear(self.trunk.n_features, inputs.n_outputs)
        self.table_head = zero_linear(inputs.n_features, inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        from_image: Tensor = self.image_head(self.trunk(required(image, "image")))
        from_table: Tensor = self.table_head(required(table, "table"))
        return from_image + from_table
