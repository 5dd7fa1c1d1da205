"""What every model agrees on: its inputs, and how its weights become `Parameters` and back.

Legend: ``B`` batch, ``C`` image channels, ``D H W`` voxels of a patch, ``F`` table columns, ``K`` outputs.

A model is an `torch.nn.Module` whose ``forward(image, table)`` takes a float32 image ``(B, C, D, H, W)`` or None and a
float32 table ``(B, F)`` or None, and returns logits ``(B, K)``. The last image channel is the ROI (1 inside, 0
outside). No model holds a batch statistic (GroupNorm, never BatchNorm): a batch statistic would mix cases, and its
running mean would leave the site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Parameters


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


class Builder(Protocol):
    """The part of a model's configuration that makes the module."""

    def build(self, inputs: ModelInputs) -> nn.Module: ...


def initial_parameters(config: Builder, inputs: ModelInputs, seed: int) -> Parameters:
    """The parameters that a study starts from: the same for the same configuration, inputs and seed, in any process.

    Torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_parameters(config.build(inputs))


def get_parameters(module: nn.Module) -> Parameters:
    """A copy of the module's state in ``state_dict`` order, as float32 arrays on the CPU."""
    return Parameters(
        {name: tensor.detach().to("cpu", torch.float32).numpy().copy() for name, tensor in module.state_dict().items()}
    )


def set_parameters(module: nn.Module, parameters: Parameters) -> None:
    """Put ``parameters`` into the module, in place.

    Raises
    ------
    ValueError
        If names, their order or shapes differ from the module's state: another model, or another version of it.
    """
    state = module.state_dict()
    expected = _shapes((name, tuple(tensor.shape)) for name, tensor in state.items())
    got = _shapes((name, array.shape) for name, array in parameters.items())
    if got != expected:
        differing = [f"{g}, expected {e}" for g, e in zip(got, expected, strict=False) if g != e]
        raise ValueError(
            f"parameters do not fit the model: {(differing or [f'{len(got)} arrays, expected {len(expected)}'])[0]}"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(np.array(parameters[name], dtype=np.float32)))


def required(tensor: Tensor | None, name: str) -> Tensor:
    """The tensor, or TypeError naming the input that the model needs and was not given."""
    if tensor is None:
        raise TypeError(f"this model needs the {name}, got None")
    return tensor


def _shapes(items: Iterable[tuple[str, tuple[int, ...]]]) -> list[str]:
    return [f"{name} {shape}" for name, shape in items]
