"""Discrete Gaussian noise on an integer grid: an exact sampler, shares of it for several sites, and what both cost.

Floating-point noise leaks through the gaps between its values (Mironov 2012); integers have none. The sampler is the
rejection of Canonne, Kamath and Steinke 2020 (arXiv 2004.00010, algorithms 2 and 3), for many numbers at once. Its
decisions are exact: a uniform number of 53 bits is compared with a probability in floating point, and where the two are
too close for that to be certain, with further bits and as many digits as it takes.

Under secure aggregation nobody may draw the noise of a sum, so each site adds a share. A sum of discrete Gaussians is
nearly a discrete Gaussian; Kairouz, Liu and Steinke 2021 (arXiv 2102.06387, theorem 1) bound the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from common.errors import PrivacyError
from common.messages import PrivacyEvent
from common.privacy.ledger import gaussian
from common.rng import NoiseSource

Integers = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]

LARGEST_VARIANCE = 2**52
"""In squared steps of the grid; beyond it products of the sampler would not fit 64 bits."""

DRAWN_VARIANCE = 2**40
"""Of a share, in squared multiples of the grid: finer noise would be no better."""

LEAST_SHARE = 16
"""Below it a sum of shares is not close enough to one Gaussian to be counted as that."""

_BITS = 53
_CLOSE = 2.0**-45
"""Errors of the floating-point exponential and its argument are far below this."""


def discrete_gaussian(n: int, *, variance: int, source: NoiseSource) -> Integers:
    """``n`` independent integers (n,) with P(y) proportional to ``exp(-y^2 / (2 variance))``.

    Raises
    ------
    PrivacyError
        Where the variance is not between 1 and `LARGEST_VARIANCE`.
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise PrivacyError(f"variance {variance} of discrete noise, expected 1 to {LARGEST_VARIANCE}")
    scale = math.isqrt(variance) + 1
    parts: list[Integers] = [np.zeros(0, dtype=np.int64)]
    missing = n
    while missing > 0:
        drawn = _laplace(missing + missing // 2 + 16, scale, source)
        distance = np.abs(np.abs(drawn) * scale - variance)
        accepted = _bernoulli_exp(distance, 2, 2 * variance * scale**2, source)
        parts.append(drawn[accepted][:missing])
        missing -= len(parts[-1])
    return np.concatenate(parts)


def _laplace(n: int, scale: int, source: NoiseSource) -> Integers:
    """At most ``n`` integers with P(y) proportional to ``exp(-|y| / scale)``."""
    rest = _below(scale, n, source)
    rest = rest[_bernoulli_exp(rest, 1, scale, source)]
    whole = np.zeros(len(rest), dtype=np.int64)
    alive = np.arange(len(rest))
    while alive.size:
        alive = alive[_bernoulli_exp(np.ones(len(alive), dtype=np.int64), 1, 1, source)]
        whole[alive] += 1
    size = rest + scale * whole
    negative = source.uniform(len(size)) < 0.5
    counted_twice = negative & (size == 0)
    signed: Integers = np.where(negative, -size, size)[~counted_twice]
    return signed


def _below(limit: int, n: int, source: NoiseSource) -> Integers:
    """About ``n`` uniform integers in [0, limit): words of the incomplete last multiple are dropped."""
    words = (source.uniform(n) * 2.0**_BITS).astype(np.int64)
    rest: Integers = words[words < 2**_BITS // limit * limit] % limit
    return rest


def _bernoulli_exp(base: Integers, power: int, divisor: int, source: NoiseSource) -> npt.NDArray[np.bool_]:
    """True with probability exactly ``exp(-base**power / divisor)`` for each of ``base`` (n,)."""
    return bernoulli_exp(
        base.astype(np.float64) ** power / divisor,
        lambda i: Fraction(int(base[i]) ** power, divisor),
        source,
        close=_CLOSE,
    )


def bernoulli_exp(
    exponent: Vector, exact: Callable[[int], Fraction], source: NoiseSource, *, close: float
) -> npt.NDArray[np.bool_]:
    """True with probability ``exp(-exponent)`` (n,).

    Parameters
    ----------
    exact : callable
        The exponent at a position, as a fraction; asked where floating point does not decide.
    close : float
        Distance of the uniform number from the probability within which the exact comparison decides.
    """
    uniform = source.uniform(len(exponent))
    probability = np.exp(-exponent)
    result = uniform < probability
    for i in np.flatnonzero(np.abs(uniform - probability) <= close):
        result[i] = _is_below(int(uniform[i] * 2.0**_BITS), exact(int(i)), source)
    return result


def _is_below(word: int, exponent: Fraction, source: NoiseSource) -> bool:
    """Whether a uniform number that begins with the bits of ``word`` lies below ``exp(-exponent)``."""
    if exponent == 0:
        return True
    bits = _BITS
    while True:
        low, high = _bounds(exponent, bits)
        if word + 1 <= low:
            return True
        if word >= high:
            return False
        word = (word << _BITS) | int(source.uniform(1)[0] * 2.0**_BITS)
        bits += _BITS


def _bounds(exponent: Fraction, bits: int) -> tuple[int, int]:
    """Integers around ``exp(-exponent) * 2**bits``."""
    with localcontext() as context:
        context.prec = bits // 3 + 40
        value = (-(Decimal(exponent.numerator) / Decimal(exponent.denominator))).exp() * Decimal(2) ** bits
        return int(value - 1), int(value) + 2


@dataclass(frozen=True)
class Shares:
    """How the noise of a sum is divided between the sites that add to it.

    Parameters
    ----------
    n_sites : int
        Sites that are asked.
    tolerated : int
        Of these, how many may drop out, or know each other's shares, without the noise falling below what is promised.
    """

    n_sites: int
    tolerated: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerated < self.n_sites:
            raise PrivacyError(f"{self.tolerated} of {self.n_sites} sites cannot be done without")

    @property
    def needed(self) -> int:
        """Shares that make up the promised noise."""
        return self.n_sites - self.tolerated

    def variance(self, total: int) -> int:
        """Variance of one share, in squared steps of the grid, for at least ``total`` in the sum of those needed."""
        return -(-total // self.needed)


@dataclass(frozen=True)
class NoiseShare:
    """What one site adds to its numbers on a grid.

    Parameters
    ----------
    shift : int
        Values are rounded to multiples of ``2**shift`` steps first, and so is the noise: on a grid that is much finer
        than the noise the last bits are not worth drawing.
    variance : int
        Of the site's share, in squared multiples.
    """

    shift: int
    variance: int

    def add(self, values: Integers, source: NoiseSource) -> Integers:
        """The rounded values (n,) with noise."""
        noise = discrete_gaussian(values.size, variance=self.variance, source=source).reshape(values.shape)
        return ((values + (1 << self.shift >> 1) >> self.shift) + noise) << self.shift


@dataclass(frozen=True)
class DistributedNoise:
    """The noise of a sum on a grid, divided between sites, and what its release costs."""

    share: NoiseShare
    cost: PrivacyEvent


def distributed_noise(
    *, noise_multiplier: float, clipping_norm: float, step: float, size: int, shares: Shares
) -> DistributedNoise:
    """Shares that give a sum of vectors of L2 norm ``clipping_norm`` the noise of ``noise_multiplier``.

    Parameters
    ----------
    step : float
        Of the grid, in the unit of the norm.
    size : int
        Numbers of the vector. Rounding to the grid and to its multiples moves each by at most one multiple.

    Raises
    ------
    PrivacyError
        Where the grid is too coarse for noise of this width.
    """
    shift = 0
    while True:
        sensitivity = clipping_norm / (step * 2**shift) + math.sqrt(size)
        total = math.ceil((noise_multiplier * sensitivity) ** 2)
        if shares.variance(total) <= DRAWN_VARIANCE:
            break
        shift += 1
    return noise_in_steps(
        noise_multiplier=noise_multiplier, sensitivity=sensitivity, size=size, shares=shares, shift=shift
    )


def noise_in_steps(
    *, noise_multiplier: float, sensitivity: float, size: int, shares: Shares, shift: int = 0
) -> DistributedNoise:
    """As `distributed_noise`, for a sum that one unit moves by ``sensitivity``, in multiples of ``2**shift`` steps.

    Raises
    ------
    PrivacyError
        Where the grid is too coarse for noise of this width.
    """
    total = math.ceil((noise_multiplier * sensitivity) ** 2)
    share = NoiseShare(shift, shares.variance(total))
    if share.variance < LEAST_SHARE:
        raise PrivacyError(
            f"a share of noise of {math.sqrt(share.variance):.2g} steps of the grid: it is too coarse for this norm"
        )
    cost = distributed_cost(size=size, sensitivity=sensitivity, variance=total, shares=shares)
    return DistributedNoise(share, cost)


def distributed_cost(*, size: int, sensitivity: float, variance: int, shares: Shares) -> PrivacyEvent:
    """What the release of a sum with noise in shares costs.

    Parameters
    ----------
    size : int
        Numbers in the sum.
    sensitivity : float
        L2 norm by which one unit moves the sum, in steps of the grid.
    variance : int
        As in `noised_share`.

    Returns
    -------
    PrivacyEvent
        A Gaussian of noise multiplier ``1 / e``, where the sum has ``e^2 / 2``-concentrated differential privacy: equal
        in every Renyi order. From shares of `LEAST_SHARE` up it is one Gaussian but for less than 1e-60.
    """
    own = shares.variance(variance)
    if own < 1:
        raise PrivacyError(f"variance {own} of a share, expected at least 1")
    gap = 10.0 * sum(math.exp(-2 * math.pi**2 * own * k / (k + 1)) for k in range(1, shares.n_sites))
    ratio = sensitivity / math.sqrt(shares.needed * own)
    cost = min(math.sqrt(ratio**2 + gap * size / 2), ratio + gap * math.sqrt(size))
    return gaussian(1 / cost)
