"""A module's weights as `Parameters`, and back. Importing this file loads torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from common.arrays import Parameters


def get_parameters(module: nn.Module) -> Parameters:
    """A copy of the module's state in ``state_dict`` order, as float32 arrays on the CPU."""
    copies = {
        name: tensor.detach().to("cpu", torch.float32).numpy().copy() for name, tensor in module.state_dict().items()
    }
    for array in copies.values():
        array.flags.writeable = False  # or `Parameters` would copy them once more
    return Parameters(copies)


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
