"""A small 3D network with GroupNorm that looks at texture inside the ROI. Legend in `common.models.interface`.

Two things were learnt on generated nodules, where a plain network stayed at what the volume alone tells:

- Averaging a feature map over the patch forgets heterogeneity. Each stage is therefore pooled to the mean *and* the
  standard deviation over the ROI, and to the maximum over the patch, and the pooled values of all stages are joined:
  the first stage is a bank of learnt filters whose spread inside the ROI is texture, the last sees shape.
- GroupNorm divides a map by its own spread. Taken over the whole patch, that spread is set by the border between
  lesion and background, so the spread inside the ROI keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.models.interface import ModelInputs, required

VARIANCE_FLOOR = 1e-3
"""Added to a variance before its root: the root of zero has no gradient, and a ROI of one voxel has no spread."""


class CnnConfig(BaseModel):
    """Stages of 3 x 3 x 3 convolutions; each stage halves the patch.

    Parameters
    ----------
    channels : tuple of int
        Feature maps of each stage, multiples of ``group_size``.
    group_size : int
        Feature maps that one group of GroupNorm shares.
    blocks : int
        Residual blocks a stage, after its halving convolution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = True
    needs_table: ClassVar[bool] = False

    kind: Literal["cnn3d"] = "cnn3d"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32)
    group_size: PositiveInt = 8
    blocks: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _groups_divide(self) -> CnnConfig:
        odd = [n for n in self.channels if n % self.group_size]
        if odd:
            raise ValueError(f"channels {odd} are no multiples of group_size {self.group_size}")
        return self

    def build(self, inputs: ModelInputs) -> nn.Module:
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        return Cnn3d(self, inputs)


class Cnn3d(nn.Module):
    """``image (B, C, D, H, W) -> logits (B, K)``."""

    def __init__(self, config: CnnConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.trunk = Trunk(
            inputs.n_channels, channels=config.channels, group_size=config.group_size, blocks=config.blocks
        )
        self.head = nn.Linear(self.trunk.n_features, inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        logits: Tensor = self.head(self.trunk(required(image, "image")))
        return logits


class Trunk(nn.Module):
    """``image (B, C, D, H, W) -> features (B, n_features)``, normalised a case at a time."""

    def __init__(self, n_channels: int, *, channels: Sequence[int], group_size: int, blocks: int) -> None:
        super().__init__()
        widths = (n_channels, *channels)
        self.stages = nn.ModuleList(
            Stage(n_in, n_out, group_size=group_size, blocks=blocks)
            for n_in, n_out in zip(widths, channels, strict=False)
        )
        self.n_features = 3 * sum(channels)
        self.norm = nn.LayerNorm(self.n_features)

    def forward(self, image: Tensor) -> Tensor:
        roi = image[:, -1:]
        maps = image
        pooled: list[Tensor] = []
        for stage in self.stages:
            maps = stage(maps)
            roi = functional.avg_pool3d(roi, kernel_size=2, ceil_mode=True)
            pooled.append(pool(maps, roi))
        features: Tensor = self.norm(torch.cat(pooled, dim=1))
        return features


class Stage(nn.Module):
    """A halving convolution and residual blocks: ``(B, C, D, H, W) -> (B, C', ceil(D/2), ceil(H/2), ceil(W/2))``."""

    def __init__(self, n_in: int, n_out: int, *, group_size: int, blocks: int) -> None:
        super().__init__()
        self.halve = nn.Conv3d(n_in, n_out, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(n_out // group_size, n_out)
        self.blocks = nn.Sequential(*(Block(n_out, group_size=group_size) for _ in range(blocks)))

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.blocks(functional.relu(self.norm(self.halve(maps))))
        return out


class Block(nn.Module):
    """``relu(x + norm(conv(x)))``; the sum makes a new tensor, as per-sample gradient hooks need."""

    def __init__(self, n: int, *, group_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n, n, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(n // group_size, n)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(maps + self.norm(self.conv(maps)))


def pool(maps: Tensor, roi: Tensor) -> Tensor:
    """Mean and standard deviation over the ROI and maximum over the patch, shape (B, 3 C).

    Parameters
    ----------
    maps : Tensor, shape (B, C, D, H, W)
    roi : Tensor, shape (B, 1, D, H, W)
        Share of each voxel that lies in the ROI; an empty ROI gives mean 0 and the floor's root.
    """
    weight = roi / roi.sum(dim=(2, 3, 4), keepdim=True).clamp_min(1e-6)
    mean = (maps * weight).sum(dim=(2, 3, 4), keepdim=True)
    variance = ((maps - mean).square() * weight).sum(dim=(2, 3, 4))
    spread = (variance + VARIANCE_FLOOR).sqrt()
    return torch.cat([mean.flatten(1), spread, maps.amax(dim=(2, 3, 4))], dim=1)


def smallest_patch(channels: Sequence[int]) -> int:
    """The thinnest patch, in voxels, that still has two voxels a side after the last stage but one."""
    return int(2 ** len(channels))
