"""Fewer bytes for a round: lossy codes for deltas and broadcasts, with error feedback. Both ends in this file.

A vector of n values travels as one raw byte array whose length follows from the code and from n, so that a receiver
knows it before it looks. What a code leaves out is not lost: the sender adds it to what it sends next (Seide et al.
2014; Karimireddy et al. 2019). Sites do so with their deltas and the coordinator with its broadcasts, as in
DoubleSqueeze (Tang et al. 2019)::

    site         v = delta + e         sends C(v)         e' = v - C(v)
    coordinator  v = next - now + e    sends C(v)         e' = v - C(v)      now' = now + C(v)

The coordinator takes ``now'`` as the study's parameters, not ``next``: all parties then hold the same bits.

Legend: ``n`` values, ``B`` values a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from common.arrays import PIECE, Parameters, moved
from common.errors import Code, MessageError, StatisticError
from common.messages import Difference

Floats = npt.NDArray[np.floating]
Single = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Packed = npt.NDArray[np.generic]

LARGEST = 1e36
"""Magnitudes beyond this are refused: no model that trains has them, and below it no code can overflow."""

LEVELS = 127
"""int8 runs from -127 to 127; -128 does not occur."""


class Compressor(Protocol):
    """One code: vector -> bytes -> vector."""

    def n_bytes(self, n: int) -> int:
        """Bytes for ``n`` values."""
        ...

    def compress(self, values: Floats, generator: np.random.Generator) -> Bytes:
        """The code of ``values`` (n,), shape (n_bytes(n),).

        Raises
        ------
        StatisticError
            If a value is not finite or beyond `LARGEST`.
        """
        ...

    def decompress(self, data: Packed, n: int) -> Single:
        """The ``n`` values of a code.

        Raises
        ------
        MessageError
            For anything that `compress` does not write.
        """
        ...


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NoCompressionConfig(_Config):
    """``kind = "none"``: parameters and deltas travel as they are."""

    kind: Literal["none"] = "none"

    def build(self) -> None:
        return None


class Bfloat16Config(_Config):
    """``kind = "bf16"``: the upper half of each float32, rounded to nearest; half the bytes."""

    kind: Literal["bf16"]

    def build(self) -> Compressor:
        return Bfloat16()


class Int8Config(_Config):
    """``kind = "int8"``: whole numbers of a scale a block, rounded up or down at random; about a quarter of the bytes.

    Parameters
    ----------
    block : int
        Values that share a scale (4 bytes).
    """

    kind: Literal["int8"]
    block: Literal[64, 128, 256, 512, 1024] = 256

    def build(self) -> Compressor:
        return StochasticInt8(self.block)


class TopKConfig(_Config):
    """``kind = "topk"``: the largest values alone, in bf16, with a bit for each value that says which they are.

    Parameters
    ----------
    share : float
        Part of the values that travels; at 0.05 it takes a twentieth of the bytes.
    """

    kind: Literal["topk"]
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05

    def build(self) -> Compressor:
        return TopK(self.share)


CompressionConfig = Annotated[
    NoCompressionConfig | Bfloat16Config | Int8Config | TopKConfig, Field(discriminator="kind")
]


@dataclass(frozen=True)
class Bfloat16:
    """Round to nearest, ties to even."""

    def n_bytes(self, n: int) -> int:
        return 2 * n

    def compress(self, values: Floats, generator: np.random.Generator) -> Bytes:
        _require_finite(values)
        bits = values.astype("<f4").view("<u4")
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits >> np.uint32(16)).astype("<u2").view(np.uint8)

    def decompress(self, data: Packed, n: int) -> Single:
        halves = _whole(data, self.n_bytes(n)).view("<u2")
        values = (halves.astype("<u4") << np.uint32(16)).view("<f4")
        _require_readable(values)
        return values


@dataclass(frozen=True)
class StochasticInt8:
    """Stochastic rounding in blocks of ``block`` values: the expected value of the code is the value itself.

    Layout: ceil(n / B) scales in float32, then n signed bytes; value = byte times scale (QSGD with the largest
    magnitude as norm; Alistarh et al. 2017, section 3).
    """

    block: int = 256

    def n_bytes(self, n: int) -> int:
        return 4 * -(-n // self.block) + n

    def compress(self, values: Floats, generator: np.random.Generator) -> Bytes:
        _require_finite(values)
        n_scales = -(-values.size // self.block)
        data = np.empty(self.n_bytes(values.size), np.uint8)
        scales, levels = data[: 4 * n_scales].view("<f4"), data[4 * n_scales :].view(np.int8)
        for start in range(0, values.size, PIECE):
            piece = values[start : start + PIECE]
            rows = np.zeros((-(-piece.size // self.block), self.block))
            rows.reshape(-1)[: piece.size] = piece
            scale = _scale_of(np.abs(rows).max(axis=1))
            scales[start // self.block :][: scale.size] = scale
            rows /= np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
            low = np.floor(rows)
            rows -= low
            low += generator.random(rows.shape) < rows
            levels[start : start + PIECE] = np.where(scale[:, None] > 0, low, 0).reshape(-1)[: piece.size]
        return data

    def decompress(self, data: Packed, n: int) -> Single:
        whole, n_scales = _whole(data, self.n_bytes(n)), -(-n // self.block)
        scales, levels = whole[: 4 * n_scales].view("<f4"), whole[4 * n_scales :].view(np.int8)
        _require_readable(scales)
        if n and (scales.min() < 0 or levels.min() < -LEVELS):
            raise MessageError("compressed values hold a negative scale, or a level below -127")
        values = levels.astype(np.float32)
        for start in range(0, n, PIECE):
            piece = values[start : start + PIECE]
            piece *= np.repeat(scales[start // self.block :][: -(-piece.size // self.block)], self.block)[: piece.size]
        return values


@dataclass(frozen=True)
class TopK:
    """The ``ceil(share n)`` values of largest magnitude; of equal ones the first.

    Layout: n bits that mark them, filled up to bytes with zeros, then their values in bf16. Biased: it needs the error
    feedback (Stich et al. 2018).
    """

    share: float = 0.05

    def n_kept(self, n: int) -> int:
        return min(n, math.ceil(self.share * n))

    def n_bytes(self, n: int) -> int:
        return -(-n // 8) + 2 * self.n_kept(n)

    def compress(self, values: Floats, generator: np.random.Generator) -> Bytes:
        _require_finite(values)
        n, k = values.size, self.n_kept(values.size)
        if n == 0:
            return np.empty(0, np.uint8)
        magnitude = np.abs(values)
        threshold = np.partition(magnitude, n - k)[n - k]
        kept = magnitude > threshold
        kept[np.flatnonzero(magnitude == threshold)[: k - int(kept.sum())]] = True
        return np.concatenate([np.packbits(kept), Bfloat16().compress(values[kept], generator)])

    def decompress(self, data: Packed, n: int) -> Single:
        whole, n_marks = _whole(data, self.n_bytes(n)), -(-n // 8)
        marks = np.unpackbits(whole[:n_marks])
        if int(marks.sum()) != self.n_kept(n) or marks[n:].any():
            raise MessageError(f"compressed values mark {int(marks.sum())} of {n}, expected {self.n_kept(n)}")
        values = np.zeros(n, np.float32)
        values[marks[:n].astype(bool)] = Bfloat16().decompress(whole[n_marks:], self.n_kept(n))
        return values


@dataclass(frozen=True, eq=False)
class Sent:
    """What travels, what the receiver makes of it, and what the sender adds to the next."""

    data: Bytes
    values: Single
    residual: Single


def send(compressor: Compressor, values: Floats, residual: Single | None, generator: np.random.Generator) -> Sent:
    """Compress ``values`` (n,) together with what former messages left out.

    ``sent.values + sent.residual == values + residual``, but for the rounding of the residual to float32.
    """
    total = values.astype(np.float64)
    if residual is not None:
        total += residual
    data = compressor.compress(total, generator)
    received = compressor.decompress(data, values.size)
    total -= received
    return Sent(data, received, total.astype(np.float32))


def rebuild(compressor: Compressor, base: Parameters, difference: Difference) -> Parameters:
    """The parameters that a `Difference` leads to, for a receiver that holds their base.

    Raises
    ------
    MessageError
        With the code ``base_absent`` where ``base`` is not what the difference starts from, or does not lead to what it
        names: the sender then sends the parameters whole.
    """
    if base.digest() != difference.base:
        raise MessageError("the difference starts from another model than the one held here", code=Code.BASE_ABSENT)
    reached = moved(base, compressor.decompress(difference.data, base.size))
    if reached.digest() != difference.result:
        raise MessageError("the difference leads to another model than it names", code=Code.BASE_ABSENT)
    return reached


def _scale_of(largest: npt.NDArray[np.float64]) -> Single:
    """The least float32 of which `LEVELS` reach ``largest``."""
    scale = (largest / LEVELS).astype(np.float32)
    short = scale.astype(np.float64) * LEVELS < largest
    return np.where(short, np.nextafter(scale, np.float32(np.inf)), scale)


def _whole(data: Packed, n_bytes: int) -> Bytes:
    if data.dtype != np.uint8 or data.shape != (n_bytes,):
        raise MessageError(f"compressed values of {data.dtype} and shape {data.shape}, expected {n_bytes} bytes")
    return np.ascontiguousarray(data, dtype=np.uint8)


def _require_finite(values: Floats) -> None:
    if values.size and not max(values.max(), -values.min()) <= LARGEST:
        raise StatisticError(f"values that are not finite, or beyond {LARGEST:g}, cannot be compressed")


def _require_readable(values: Single) -> None:
    if values.size and not max(values.max(), -values.min()) <= 2 * LARGEST:
        raise MessageError(f"compressed values are not finite, or beyond {2 * LARGEST:g}")
