"""Random numbers: generators named under the study's seed, and privacy noise from the system's entropy.

A generator is found by its name (``generator(seed, "train", site, round_number)``), never by how many numbers were
drawn before: so a round can be repeated after a crash, in another process or order of sites, with equal numbers.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

SEPARATOR = "\x1f"
"""ASCII's unit separator, between the names of a stream."""


def derived_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream that ``names`` describe, from SHA-256 of both.

    Raises
    ------
    ValueError
        If a name holds the character that separates names: two streams could be one.
    """
    for name in names:
        if SEPARATOR in str(name):
            raise ValueError(f"a stream's name cannot hold the unit separator: {name!r}")
    text = SEPARATOR.join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A PCG64 generator of its own for the stream that ``names`` describe."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, *names)))


class NoiseSource(Protocol):
    """Where privacy noise comes from: `SystemNoise` in a study; a fixed key in a test."""

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        """``n`` numbers in [0, 1), 53 bits each."""
        ...

    def normal(self, n: int) -> npt.NDArray[np.float64]:
        """``n`` standard normal numbers."""
        ...


class SystemNoise:
    """Noise from a ChaCha20 keystream (RFC 8439) under a key from the operating system's entropy.

    Parameters
    ----------
    key : bytes, optional
        32 bytes, for tests only; a study never passes it.
    """

    def __init__(self, key: bytes | None = None) -> None:
        secret = os.urandom(32) if key is None else key
        self._stream = Cipher(algorithms.ChaCha20(secret, bytes(16)), mode=None).encryptor()

    def bytes(self, n: int) -> bytes:
        return self._stream.update(bytes(n))

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        words = np.frombuffer(self.bytes(8 * n), dtype="<u8") >> np.uint64(11)
        return words.astype(np.float64) * 2.0**-53

    def normal(self, n: int) -> npt.NDArray[np.float64]:
        """Box-Muller in float64 (Box and Muller 1958)."""
        half = (n + 1) // 2
        u = self.uniform(2 * half)
        radius = np.sqrt(-2.0 * np.log1p(-u[:half]))
        angle = 2.0 * math.pi * u[half:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
