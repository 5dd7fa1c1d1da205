"""The module of `common.models.cnn3d`, and the trunk that `common.models.networks.fusion` shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.models.cnn3d import CnnConfig, n_pooled
from common.models.interface import ModelInputs
from common.models.weights import required

VARIANCE_FLOOR = 1e-3
"""Added to a variance before its root: the root of zero has no gradient, and a ROI of one voxel has no spread."""


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
        self.n_features = n_pooled(channels)
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
