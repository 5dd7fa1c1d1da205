"""Numbers on a grid of integers, so that a sum of masked numbers is exact: modulo 2^32 or 2^64, and in limbs.

Values of a known bound (a model's delta) use a `Grid`: one word each, with room for the whole sum. Sums of statistics
have no common scale (a count beside a fourth power of an energy), so they are written out in `LIMBS` words of 52 bits,
which hold any double between 2^-67 and 2^139 without rounding: no scale has to be agreed on, and none is revealed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from common.errors import PrivacyError
from common.rng import NoiseSource

Words = npt.NDArray[np.unsignedinteger]
Vector = npt.NDArray[np.float64]
Bits = Literal[32, 64]
Rounding = Literal["nearest", "stochastic"]

LIMBS, LIMB_BITS, LOWEST_BIT = 5, 52, -120
"""A number is the sum of ``limb[j] * 2**(52 j - 120)``, its rounding to the lowest bit included."""

MAX_SITES = 2**11 - 1
"""So many limbs of 52 bits and sign add up within 64 bits."""

_TYPES: dict[int, type[np.unsignedinteger]] = {32: np.uint32, 64: np.uint64}


@dataclass(frozen=True)
class Grid:
    """Fixed-point numbers whose sum over all sites cannot wrap around.

    Parameters
    ----------
    bits : {32, 64}
        Size of a word; sums are taken modulo 2^bits.
    fraction_bits : int
        A value is rounded to a multiple of ``2 ** -fraction_bits``; may be negative.
    bound : float
        Largest size of a value at one site.
    """

    bits: Bits
    fraction_bits: int
    bound: float

    @classmethod
    def for_sum(cls, *, n_sites: int, bound: float, bits: Bits) -> Grid:
        """The finest grid on which ``n_sites`` values within ``bound`` add up to less than ``2 ** (bits - 1)``.

        Rounding moves a value by less than one step, so ``n_sites * (bound * 2 ** f + 1) <= 2 ** (bits - 1) - 1`` is
        enough.

        Raises
        ------
        ValueError
            If there is no such grid.
        """
        room = (2 ** (bits - 1) - 1) // n_sites - 1
        if room < 1 or not 0 < bound < math.inf:
            raise ValueError(f"{bits} bits leave no room for {n_sites} values of size {bound:g}")
        fraction_bits = math.floor(math.log2(room)) - math.ceil(math.log2(bound))
        while math.ldexp(bound, fraction_bits + 1) <= room:
            fraction_bits += 1
        while math.ldexp(bound, fraction_bits) > room:
            fraction_bits -= 1
        return cls(bits, fraction_bits, bound)

    @property
    def step(self) -> float:
        """Distance of neighbouring values."""
        return math.ldexp(1.0, -self.fraction_bits)

    def encode(self, values: Vector, *, source: NoiseSource | None = None) -> Words:
        """Words of ``values`` (n,): rounded to the nearest step, or stochastically where a ``source`` is given.

        Raises
        ------
        PrivacyError
            If a value is not finite or lies outside the bound: it is never cut off silently.
        """
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= self.bound:  # NaN too
            n_outside = int((~(np.abs(values) <= self.bound)).sum())
            raise PrivacyError(
                f"{n_outside} of {values.size} values lie outside the bound {self.bound:g} of the masked sum, the "
                f"largest is {largest:g}: nothing is cut off, the study needs a larger value_bound"
            )
        scaled = np.ldexp(values, self.fraction_bits)
        rounded = np.rint(scaled) if source is None else np.floor(scaled + source.uniform(scaled.size))
        return cast(Words, rounded.astype(np.int64).astype(_TYPES[self.bits]))

    def decode(self, total: Words) -> Vector:
        """The sum of values from the sum of their words."""
        signed = total.view(np.int32 if self.bits == 32 else np.int64)
        return cast(Vector, np.ldexp(signed.astype(np.float64), -self.fraction_bits))


def encode_limbs(values: Vector) -> npt.NDArray[np.uint64]:
    """Words of any doubles, shape (LIMBS * n,), the lowest limbs of all values first.

    Raises
    ------
    PrivacyError
        If a value is not finite, or larger than 2^139.
    """
    if not bool((np.abs(values) < math.ldexp(1.0, LIMBS * LIMB_BITS + LOWEST_BIT - 1)).all()):
        raise PrivacyError("a sum is not finite, or too large to be masked")
    rest = np.ldexp(np.abs(values), -LOWEST_BIT)
    signs = np.where(np.signbit(values), -1.0, 1.0)
    limbs = np.empty((LIMBS, values.size), dtype=np.int64)
    for j in range(LIMBS - 1, 0, -1):
        part = np.floor(np.ldexp(rest, -LIMB_BITS * j))
        rest -= np.ldexp(part, LIMB_BITS * j)
        limbs[j] = signs * part
    limbs[0] = signs * np.rint(rest)
    return limbs.reshape(-1).view(np.uint64)


def decode_limbs(words: npt.NDArray[np.uint64]) -> Vector:
    """The doubles of a sum of `encode_limbs`, shape (n,); a sum that a double can hold is exact."""
    limbs = _carried(words.view(np.int64).reshape(LIMBS, -1).copy())
    negative = limbs[-1] < 0
    limbs[:, negative] = _carried(-limbs[:, negative])
    total = np.zeros(limbs.shape[1])
    for j in range(LIMBS):
        total += np.ldexp(limbs[j].astype(np.float64), LIMB_BITS * j + LOWEST_BIT)
    return np.where(negative, -total, total)


def _carried(limbs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Equal numbers whose limbs below the highest lie in [0, 2^52)."""
    for j in range(LIMBS - 1):
        carry = limbs[j] >> LIMB_BITS
        limbs[j] -= carry << LIMB_BITS
        limbs[j + 1] += carry
    return limbs


def encode_counts(values: npt.NDArray[np.integer], *, n_sites: int) -> npt.NDArray[np.uint64]:
    """One word for each whole number, shape (n,).

    Raises
    ------
    PrivacyError
        If the sum over ``n_sites`` could wrap around.
    """
    limit = 2**62 // n_sites
    if values.size and not (-limit < int(values.min()) and int(values.max()) < limit):
        raise PrivacyError(f"a whole number is larger than {limit}, the sum over {n_sites} sites could wrap around")
    return values.astype(np.int64).reshape(-1).view(np.uint64)


def decode_counts(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return words.view(np.int64)
