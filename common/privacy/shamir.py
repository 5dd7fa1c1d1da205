"""Shamir's secret sharing (Shamir 1979, "How to share a secret") over the prime field of 2^521 - 1.

Any ``threshold`` shares give the secret back; fewer say nothing about it, because for every secret there is one
polynomial that fits them. The field is larger than any secret here, so no secret has to be reduced or drawn again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from common.errors import PrivacyError

PRIME = 2**521 - 1
"""The thirteenth Mersenne prime (Robinson 1952)."""

SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, *, holders: Sequence[int], threshold: int) -> dict[int, bytes]:
    """One share for each holder.

    Parameters
    ----------
    secret : bytes
        32 bytes.
    holders : sequence of int
        Points at which the polynomial is handed out: different, from 1.
    threshold : int
        Shares that are needed to give the secret back.

    Raises
    ------
    ValueError
        If the holders are fewer than the threshold, one is given twice or is no point, or the secret has another size.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    if not 1 <= threshold <= len(set(holders)) or len(set(holders)) != len(holders):
        raise ValueError(f"threshold {threshold} of {len(set(holders))} different holders")
    if not all(1 <= x < PRIME for x in holders):
        raise ValueError("a holder's point lies between 1 and the field's prime")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in holders}


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret from at least ``threshold`` shares, by Lagrange's interpolation at 0.

    All shares that are given are used, so that one that does not fit shows.

    Raises
    ------
    PrivacyError
        If there are too few shares, or they are not of one secret.
    """
    if len(shares) < threshold:
        raise PrivacyError(f"{len(shares)} shares of a secret, {threshold} are needed")
    points = {x: int.from_bytes(share, "big") for x, share in sorted(shares.items())}
    if not all(1 <= x < PRIME for x in points) or not all(value < PRIME for value in points.values()):
        raise PrivacyError("a share lies outside the field")
    secret = _at_zero(dict(list(points.items())[:threshold]))
    if len(points) > threshold and _at_zero(points) != secret:
        raise PrivacyError("the shares are not of one secret")
    if secret >= 1 << (8 * SECRET_BYTES):
        raise PrivacyError("the shares are not of one secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _at_zero(points: Mapping[int, int]) -> int:
    total = 0
    for x, value in points.items():
        above, below = 1, 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        total += value * above * pow(below, -1, PRIME)
    return total % PRIME
