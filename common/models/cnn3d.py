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
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from common.models.initial import InitialArray, convolution, dense, norm
from common.models.interface import ModelInputs

if TYPE_CHECKING:
    from torch import nn


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
        from common.models.networks.cnn3d import Cnn3d

        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        return Cnn3d(self, inputs)

    def initial(self, inputs: ModelInputs) -> tuple[InitialArray, ...]:
        inputs.require_image(self.kind, smallest=smallest_patch(self.channels))
        trunk = initial_trunk(inputs.n_channels, self.channels, blocks=self.blocks)
        return (*trunk, *dense("head", n_pooled(self.channels), inputs.n_outputs))


def smallest_patch(channels: Sequence[int]) -> int:
    """The thinnest patch, in voxels, that still has two voxels a side after the last stage but one."""
    return int(2 ** len(channels))


def n_pooled(channels: Sequence[int]) -> int:
    """Features of the trunk: three of each map of each stage."""
    return 3 * sum(channels)


def initial_trunk(n_channels: int, channels: Sequence[int], *, blocks: int) -> tuple[InitialArray, ...]:
    """The arrays of `common.models.networks.cnn3d.Trunk`."""
    arrays: list[InitialArray] = []
    for number, (n_in, n_out) in enumerate(pairwise((n_channels, *channels))):
        stage = f"trunk.stages.{number}"
        arrays += [*convolution(f"{stage}.halve", n_in, n_out, size=3), *norm(f"{stage}.norm", n_out)]
        for block in range(blocks):
            arrays += convolution(f"{stage}.blocks.{block}.conv", n_out, n_out, size=3)
            arrays += norm(f"{stage}.blocks.{block}.norm", n_out)
    return (*arrays, *norm("trunk.norm", n_pooled(channels)))
