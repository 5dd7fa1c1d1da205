"""Gaussian noise whose floating-point numbers tell nothing about what they were added to.

Noise added in floating point leaks: which sums are possible at all depends on the number that noise is added to, so
that the low bits of a single output can decide between two neighbours (Mironov 2012; Haney et al. 2022,
arXiv:2112.05307). Here the value and the noise are each rounded to one grid, a power of two far below the noise, and
added as whole numbers. For a value on the grid, ``value + round(noise)`` equals ``round(value + noise)``: the output is
exactly a rounding of the ideal Gaussian mechanism, and every output is possible from every value.

The noise comes from a keystream (`common.rng.SystemNoise`) by Box and Muller's method, with 106 bits for the radius:
with 53 the tail beyond 6 standard deviations would have gaps wider than the grid.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters, Vector
from common.errors import PrivacyError
from common.rng import NoiseSource

GRID_BITS = 24
"""The grid is at most 2^-24 of the noise's standard deviation: as fine as float32 beside it."""
MOST_STEPS = 2**62
"""Of the grid, that a value may be away from zero, so that no sum leaves 64 bits."""
TAIL_FLOOR = 2.0**-107
"""Half the smallest positive radius draw, in the place of zero, whose logarithm is infinite."""


def grid_of(std: float) -> float:
    """The power of two that values and noise of standard deviation ``std`` are rounded to."""
    _require_std(std)
    return 2.0 ** (math.frexp(std)[1] - 1 - GRID_BITS)


def with_noise(vector: npt.NDArray[np.floating], *, std: float, source: NoiseSource) -> Vector:
    """``vector`` (n,) plus independent Gaussian noise, float64, on the grid of ``std``.

    The value is rounded towards zero, so its norm does not grow: a sensitivity that clipping gave still holds. Between
    two neighbours the rounding adds at most ``sqrt(n) * grid_of(std)``, which is below 1e-4 of the noise up to 2.8
    million values; `inflated` gives the noise that covers it.

    Raises
    ------
    PrivacyError
        Where a value is not finite or is too large for the grid, or ``std`` is not positive: no noise is no privacy.
    """
    grid = grid_of(std)
    steps = vector.astype(np.float64) / grid
    if not (np.abs(steps) < MOST_STEPS).all():  # also where it is NaN
        raise PrivacyError(f"values that are not finite, or beyond {MOST_STEPS * grid:.3g}, cannot be given noise")
    noise = np.rint(standard_normals(vector.size, source) * (std / grid))
    return (np.trunc(steps).astype(np.int64) + noise.astype(np.int64)).astype(np.float64) * grid


def parameters_with_noise(parameters: Parameters, *, std: float, source: NoiseSource) -> Parameters:
    """All arrays, 0-d ones too, plus noise; rounded to their dtypes afterwards, which costs no privacy."""
    return parameters.unflatten(with_noise(parameters.flatten(), std=std, source=source))


def inflated(std: float, *, sensitivity: float, n_values: int) -> float:
    """The standard deviation that keeps ``std / sensitivity`` where rounding to the grid adds to the sensitivity."""
    rounding = math.sqrt(n_values) * 2 * grid_of(std)  # twice, because the larger noise may have the next grid
    return std * (1 + rounding / sensitivity)


def standard_normals(n: int, source: NoiseSource) -> Vector:
    """``n`` standard normal numbers (Box and Muller 1958), whose tail is as fine as their bulk."""
    half = (n + 1) // 2
    draws = source.uniform(3 * half)
    tail = np.maximum(draws[:half] + draws[half : 2 * half] * 2.0**-53, TAIL_FLOOR)
    radius = np.sqrt(-2.0 * np.log(np.minimum(tail, 1.0)))
    angle = 2.0 * math.pi * draws[2 * half :]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]


def _require_std(std: float) -> None:
    if not 0 < std < math.inf:
        raise PrivacyError(f"noise has a positive, finite standard deviation, got {std}")
