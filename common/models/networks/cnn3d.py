"""The module of `common.models.cnn3d`, and the trunk that `common.models.networks.fusion` shares."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from common.models.cnn3d import CnnConfig, TrunkConfig
from common.models.interface import ModelInputs
from common.models.networks.centre import Centre
from common.models.networks.filters import energies, scattering
from common.models.networks.linear import zero_linear
from common.models.weights import required

VARIANCE_FLOOR = 1e-3
"""Added to a variance before its root: the root of zero has no gradient, and a ROI of one voxel has no spread."""


class Cnn3d(nn.Module):
    """``image (B, C, D, H, W) -> logits (B, K)``."""

    def __init__(self, config: CnnConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.trunk = Trunk(inputs.n_channels, config)
        self.head = (zero_linear if config.centred else nn.Linear)(self.trunk.n_features, inputs.n_outputs)

    def forward(self, image: Tensor | None, table: Tensor | None) -> Tensor:
        logits: Tensor = self.head(self.trunk(required(image, "image")))
        return logits


class Trunk(nn.Module):
    """``image (B, C, D, H, W) -> features (B, n_features)``, normalised a case at a time."""

    def __init__(self, n_channels: int, config: TrunkConfig) -> None:
        super().__init__()
        self._filtered = config.filters == "scattering"
        self.stages = nn.ModuleList(
            Stage(n_in, n_out, group_size=config.group_size, blocks=config.blocks, plain=config.centred)
            for n_in, n_out in pairwise((config.n_maps(n_channels), *config.channels))
        )
        self.n_features = config.n_features(n_channels)
        self.norm = nn.LayerNorm(config.n_pooled, elementwise_affine=not config.centred)
        self.centre = Centre(self.n_features) if config.centred else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        roi = image[:, -1:]
        fixed: list[Tensor] = []
        maps = image
        if self._filtered:
            maps = scattering(image[:, :-1])
            fixed = [energies(maps, roi, n_channels=image.shape[1] - 1)]
            maps = torch.cat([maps, roi], dim=1)
        pooled: list[Tensor] = []
        for stage in self.stages:
            maps = stage(maps)
            roi = functional.avg_pool3d(roi, kernel_size=2, ceil_mode=True)
            pooled.append(pool(maps, roi))
        features: Tensor = self.centre(torch.cat([self.norm(torch.cat(pooled, dim=1)), *fixed], dim=1))
        return features


class Stage(nn.Module):
    """A halving convolution and residual blocks: ``(B, C, D, H, W) -> (B, C', ceil(D/2), ceil(H/2), ceil(W/2))``."""

    def __init__(self, n_in: int, n_out: int, *, group_size: int, blocks: int, plain: bool) -> None:
        super().__init__()
        self.halve = convolution(n_in, n_out, stride=2, unit=plain)
        self.norm = nn.GroupNorm(n_out // group_size, n_out, affine=not plain)
        self.blocks = nn.Sequential(*(Block(n_out, group_size=group_size, plain=plain) for _ in range(blocks)))

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.blocks(functional.relu(self.norm(self.halve(maps))))
        return out


class Block(nn.Module):
    """``relu(x + norm(conv(x)))``; the sum makes a new tensor, as per-sample gradient hooks need."""

    def __init__(self, n: int, *, group_size: int, plain: bool) -> None:
        super().__init__()
        self.conv = convolution(n, n, stride=1, unit=plain)
        self.norm = nn.GroupNorm(n // group_size, n, affine=not plain)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(maps + self.norm(self.conv(maps)))


def convolution(n_in: int, n_out: int, *, stride: int, unit: bool) -> nn.Conv3d:
    """3 x 3 x 3 without bias; with ``unit``, weights that start with variance 1."""
    if not unit:
        return nn.Conv3d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
    layer: nn.Conv3d = skip_init(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.Conv3d, n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False
    )
    nn.init.uniform_(layer.weight, -math.sqrt(3.0), math.sqrt(3.0))
    return layer


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
