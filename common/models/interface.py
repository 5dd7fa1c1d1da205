"""What every model agrees on: its inputs, its configuration and its module.

Legend: ``B`` batch, ``C`` image channels, ``D H W`` voxels of a patch, ``F`` table columns, ``K`` outputs.

A model is an `torch.nn.Module` whose ``forward(image, table)`` takes a float32 image ``(B, C, D, H, W)`` or None and a
float32 table ``(B, F)`` or None, and returns logits ``(B, K)``. The last image channel is the ROI (1 inside, 0
outside). No model holds a batch statistic (GroupNorm, never BatchNorm): a batch statistic would mix cases, and its
running mean would leave the site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from common.models.initial import InitialArray


@dataclass(frozen=True)
class ModelInputs:
    """The shapes that a study fixes before a model can be built.

    Parameters
    ----------
    n_channels : int
        Image channels, the ROI included; 0 where the study has no image step.
    patch_shape : tuple of int
        Voxels ``(D, H, W)`` of a patch; ``(0, 0, 0)`` where the study has no image step.
    n_features : int
        Columns of the table; 0 where the study has no table step.
    n_outputs : int
        Logits a case, as the task says.
    """

    n_channels: int
    patch_shape: tuple[int, int, int]
    n_features: int
    n_outputs: int

    def __post_init__(self) -> None:
        if min(self.n_channels, self.n_features, *self.patch_shape) < 0:
            raise ValueError(f"shapes cannot be negative: {self}")
        if self.n_outputs < 1:
            raise ValueError(f"a model has at least one output, got {self.n_outputs}")

    def require_image(self, kind: str, *, smallest: int) -> None:
        """Raise ValueError where there is no image, or a patch thinner than ``smallest`` voxels."""
        if self.n_channels < 2:
            raise ValueError(f"model {kind} needs an image and its ROI: at least 2 channels, got {self.n_channels}")
        if min(self.patch_shape) < smallest:
            raise ValueError(f"model {kind} needs a patch of at least {smallest} voxels a side, got {self.patch_shape}")

    def require_table(self, kind: str) -> None:
        """Raise ValueError where there is no table."""
        if self.n_features < 1:
            raise ValueError(f"model {kind} needs a table with at least 1 column, got {self.n_features}")


class Network(Protocol):
    """The part of a model's configuration that makes the module, and says how it starts."""

    def build(self, inputs: ModelInputs) -> nn.Module: ...

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]: ...
