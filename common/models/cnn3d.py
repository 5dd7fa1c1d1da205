"""A small 3D network with GroupNorm that looks at texture inside the ROI. Legend in `common.models.interface`.

Two things were learnt on generated nodules, where a plain network stayed at what the volume alone tells:

- Averaging a feature map over the patch forgets heterogeneity. Each stage is therefore pooled to the mean *and* the
  standard deviation over the ROI, and to the maximum over the patch, and the pooled values of all stages are joined:
  the first stage is a bank of learnt filters whose spread inside the ROI is texture, the last sees shape.
- GroupNorm divides a map by its own spread. Taken over the whole patch, that spread is set by the border between
  lesion and background, so the spread inside the ROI keeps its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from common.models.initial import InitialArray, convolution, dense, norm, unit_convolution, zero_dense
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


MAPS_PER_CHANNEL = 7
"""Of the fixed filters: the image, three bands, three bands of absolute bands."""
LARGEST_CONTRAST = 24.0
"""Of logarithms between -6 and 6 (a variance's floor lies above exp(-6) of its unit), at the largest gain, of 2."""
REGIONS = 3
"""In which the fixed filters' maps are measured: the ROI, its core, its shell."""


class TrunkConfig(BaseModel):
    """Stages of 3 x 3 x 3 convolutions; each stage halves the patch.

    Parameters
    ----------
    channels : tuple of int
        Feature maps of each stage, multiples of ``group_size``.
    group_size : int
        Feature maps that one group of GroupNorm shares.
    blocks : int
        Residual blocks a stage, after its halving convolution.
    filters : "none" or "scattering"
        Fixed filters between the image and the first stage, whose log variances are features too
        (`common.models.networks.filters`): for few cases, and for training under sample-level privacy.
    centred : bool
        The first round learns the features' means, and no weights; later rounds train on features less their means
        (`common.models.networks.centre`). Features that are alike in all cases would use up the clipping norm of
        private training. Normalisations have no learned scale and shift then, and convolutions start with variance
        one: their scale does not change what they compute, but how far the noise of a step turns them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    needs_image: ClassVar[bool] = True

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 32)
    group_size: PositiveInt = 8
    blocks: Annotated[int, Field(ge=0)] = 1
    filters: Literal["none", "scattering"] = "none"
    centred: bool = False

    @model_validator(mode="after")
    def _groups_divide(self) -> TrunkConfig:
        odd = [n for n in self.channels if n % self.group_size]
        if odd:
            raise ValueError(f"channels {odd} are no multiples of group_size {self.group_size}")
        return self

    @property
    def n_pooled(self) -> int:
        """Features of the learned stages: three of each map of each stage."""
        return 3 * sum(self.channels)

    @property
    def largest_feature(self) -> float:
        """No feature before its mean is taken off is larger in size: normalised values, and contrasts of logarithms."""
        return max(math.sqrt(self.n_pooled), LARGEST_CONTRAST if self.filters == "scattering" else 0.0)

    def n_maps(self, n_channels: int) -> int:
        """Channels that the first stage sees of ``n_channels``, the ROI counted in both."""
        return MAPS_PER_CHANNEL * (n_channels - 1) + 1 if self.filters == "scattering" else n_channels

    def n_features(self, n_channels: int) -> int:
        """Features of the trunk."""
        fixed = n_energies(n_channels - 1) if self.filters == "scattering" else 0
        return self.n_pooled + fixed

    def initial_trunk(self, n_channels: int) -> tuple[InitialArray, ...]:
        """The arrays of `common.models.networks.cnn3d.Trunk`."""
        arrays: list[InitialArray] = []
        for number, (n_in, n_out) in enumerate(pairwise((self.n_maps(n_channels), *self.channels))):
            stage = f"trunk.stages.{number}"
            arrays += self._convolved(f"{stage}.halve", f"{stage}.norm", n_in, n_out)
            for block in range(self.blocks):
                arrays += self._convolved(f"{stage}.blocks.{block}.conv", f"{stage}.blocks.{block}.norm", n_out, n_out)
        if self.centred:
            return (*arrays, InitialArray("trunk.centre.mean", (self.n_features(n_channels),)))
        return (*arrays, *norm("trunk.norm", self.n_pooled))

    def _convolved(self, name: str, norm_name: str, n_in: int, n_out: int) -> tuple[InitialArray, ...]:
        if self.centred:
            return unit_convolution(name, n_in, n_out, size=3)
        return (*convolution(name, n_in, n_out, size=3), *norm(norm_name, n_out))


class CnnConfig(TrunkConfig):
    """The stages under one dense layer."""

    needs_table: ClassVar[bool] = False

    kind: Literal["cnn3d"] = "cnn3d"

    def build(self, inputs: ModelInputs) -> nn.Module:
        from common.models.networks.cnn3d import Cnn3d

        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        return Cnn3d(self, inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        layer = zero_dense if self.centred else dense
        head = layer("head", self.n_features(inputs.n_channels), inputs.n_outputs)
        return (*self.initial_trunk(inputs.n_channels), *head)


def smallest_patch(channels: Sequence[int]) -> int:
    """The thinnest patch, in voxels, that still has two voxels a side after the last stage but one."""
    return int(2 ** len(channels))


def n_energies(n_channels: int) -> int:
    """Values that the fixed filters give of an image of ``n_channels``, the ROI not counted."""
    return (REGIONS * (MAPS_PER_CHANNEL + 1) + 1) * n_channels + 1
