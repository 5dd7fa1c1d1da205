"""The parameters that a study starts from, as torch's default initialisation draws them, without torch.

The coordinator needs a start, and torch for nothing else: loading it takes a second and 180 MB. Each configuration
therefore lists its arrays, in the order of the module's state, and a test holds them to the module that it builds: to
the bit, because torch's generator on the CPU is the Mersenne twister (Matsumoto and Nishimura 1998) that numpy has too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.models.interface import ModelInputs, Network

MANTISSA_BITS = 24
"""Of a 32-bit draw, so many make a float32 in [0, 1)."""

SLAB = 1 << 16
"""Numbers that are drawn at once, in float64."""


@dataclass(frozen=True)
class InitialArray:
    """One array of a model.

    Parameters
    ----------
    spread : float
        Drawn evenly from ``value - spread`` to ``value + spread``; 0 draws nothing.
    """

    name: str
    shape: tuple[int, ...]
    value: float = 0.0
    spread: float = 0.0


def dense(name: str, n_inputs: int, n_outputs: int) -> tuple[InitialArray, InitialArray]:
    """Weight and bias of a dense layer, both within ``1 / sqrt(n_inputs)`` of zero."""
    spread = _spread(n_inputs)
    return (
        InitialArray(f"{name}.weight", (n_outputs, n_inputs), spread=spread),
        InitialArray(f"{name}.bias", (n_outputs,), spread=spread),
    )


def zero_dense(name: str, n_inputs: int, n_outputs: int) -> tuple[InitialArray, InitialArray]:
    """Weight and bias of a dense layer that starts at zero."""
    return InitialArray(f"{name}.weight", (n_outputs, n_inputs)), InitialArray(f"{name}.bias", (n_outputs,))


def convolution(name: str, n_inputs: int, n_outputs: int, *, size: int) -> tuple[InitialArray]:
    """The weight of a 3D convolution without bias, within ``1 / sqrt(inputs of one output)`` of zero."""
    spread = _spread(n_inputs * size**3)
    return (InitialArray(f"{name}.weight", (n_outputs, n_inputs, size, size, size), spread=spread),)


def unit_convolution(name: str, n_inputs: int, n_outputs: int, *, size: int) -> tuple[InitialArray]:
    """As `convolution`, with weights of variance 1."""
    return (InitialArray(f"{name}.weight", (n_outputs, n_inputs, size, size, size), spread=math.sqrt(3.0)),)


def norm(name: str, n: int) -> tuple[InitialArray, InitialArray]:
    """Scale 1 and shift 0 of a normalisation."""
    return InitialArray(f"{name}.weight", (n,), value=1.0), InitialArray(f"{name}.bias", (n,))


def initial_parameters(config: Network, inputs: ModelInputs, seed: int) -> Parameters:
    """The parameters that a study starts from: the same for the same configuration, inputs and seed, in any process.

    Raises
    ------
    ValueError
        If the model cannot be built for ``inputs``.
    """
    return draw(config.initial(inputs), seed)


def draw(arrays: Sequence[InitialArray], seed: int) -> Parameters:
    """The arrays, float32, from the twister of ``seed`` (its lowest 32 bits, as torch takes them)."""
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    return Parameters({array.name: _drawn(array, twister) for array in arrays})


def _drawn(array: InitialArray, twister: np.random.RandomState) -> npt.NDArray[np.float32]:
    if not array.spread:
        return np.full(array.shape, array.value, dtype=np.float32)
    low, high = np.float32(array.value - array.spread), np.float32(array.value + array.spread)
    drawn = np.empty(math.prod(array.shape), dtype=np.float32)
    for start in range(0, drawn.size, SLAB):
        slab = drawn[start : start + SLAB]
        raw = np.frombuffer(twister.bytes(4 * slab.size), dtype="<u4") & np.uint32((1 << MANTISSA_BITS) - 1)
        # in float64: product and sum are rounded once, as by a fused multiply-add
        slab[:] = raw * 2.0**-MANTISSA_BITS * np.float64(high - low) + np.float64(low)
    return drawn.reshape(array.shape)


def _spread(n_inputs: int) -> float:
    """He et al. 2015 with a leaky slope of sqrt(5), in torch's order of operations."""
    gain = math.sqrt(2.0 / (1 + math.sqrt(5.0) ** 2))
    return math.sqrt(3.0) * (gain / math.sqrt(n_inputs))
