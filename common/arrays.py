"""`Parameters`: an ordered name -> array mapping, and the vector arithmetic that strategies and privacy are written in.

Aggregation accumulates in float64 and in a fixed order, so one study gives bit-identical parameters in process and over
the network (docs/decisions.md, "Fixed order of summation").
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

PIECE = 1 << 18
"""Values that are widened to float64 at a time: a large model has no room for whole copies of itself."""


class Parameters(Mapping[str, npt.NDArray[np.floating]]):
    """Model parameters, or a delta between two states of them.

    Parameters
    ----------
    arrays : mapping of str to ndarray of a floating dtype
        The order is kept and is part of the identity. A writable array is copied, so that nobody changes the
        parameters afterwards; one that is not writable is kept as it is.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
        for name, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise TypeError(f"parameter {name} has dtype {array.dtype}, expected a floating dtype")
        self._arrays = {name: _frozen(array) for name, array in arrays.items()}
        self._digest = ""
        self._finite: bool | None = None

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Parameters({len(self)} arrays, {self.size} values, sha256 {self.digest()[:12]})"

    @property
    def size(self) -> int:
        """Number of scalar values over all arrays."""
        return sum(array.size for array in self.values())

    @property
    def layout(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """Name, shape and dtype of each array: two parameters are compatible where this agrees."""
        return tuple((name, array.shape, array.dtype.str) for name, array in self.items())

    def flatten(self) -> Vector:
        """All values as one float64 vector in order, shape (size,)."""
        if not len(self):
            return np.zeros(0)
        return np.concatenate([array.ravel().astype(np.float64) for array in self.values()])

    def unflatten(self, vector: npt.NDArray[np.floating]) -> Parameters:
        """Parameters of this layout with the values of ``vector`` (size,), rounded to each array's dtype."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector of shape {vector.shape} does not fit {self.size} values")
        parts: dict[str, npt.NDArray[np.floating]] = {}
        start = 0
        for name, array in self.items():
            part = vector[start : start + array.size].reshape(array.shape).astype(array.dtype)
            part.flags.writeable = False
            parts[name] = part
            start += array.size
        return Parameters(parts)

    def norm(self) -> float:
        """L2 norm over all values; 0-d arrays count, NaN stays NaN."""
        return float(np.linalg.norm(self.flatten()))

    def release(self) -> None:
        """Let memory go that can be had again: nothing here, pages of the file where arrays lie in one."""

    def all_finite(self) -> bool:
        if self._finite is None:  # found once: nobody changes the arrays
            pieces = (piece for array in self.values() for piece in _pieces(array.reshape(-1)))
            self._finite = all(bool(np.isfinite(piece).all()) for piece in pieces)
        return self._finite

    def digest(self) -> str:
        """SHA-256 over layout and bytes: equal digests mean bit-identical parameters."""
        if not self._digest:  # computed once: nobody changes the arrays
            sha = hashlib.sha256(repr(self.layout).encode())
            for array in self.values():
                sha.update(bytes_of(array))
            self._digest = sha.hexdigest()
        return self._digest


@dataclass(frozen=True)
class WeightedSum:
    """A running float64 sum of weighted vectors: one update is in memory at a time.

    ``add`` and ``mean`` work in the sum's own array and hand it on, so use what they return.
    """

    total: Vector
    weight: float = 0.0

    def add(self, vector: npt.NDArray[np.floating] | Parameters, weight: float) -> WeightedSum:
        """The sum with a weighted vector (n,), or with all values of parameters in order."""
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be positive and finite, got {weight}")
        parts = [array.reshape(-1) for array in vector.values()] if isinstance(vector, Parameters) else [vector]
        if sum(part.size for part in parts) != self.total.size:
            raise ValueError(f"vector of another size than the sum, {self.total.size}")
        start = 0
        for part in parts:
            for values in _pieces(part):
                piece = values.astype(np.float64)
                piece *= weight
                self.total[start : start + piece.size] += piece
                start += piece.size
        return WeightedSum(self.total, self.weight + weight)

    def mean(self) -> Vector:
        if self.weight == 0:
            raise ValueError("mean of no vectors")
        np.divide(self.total, self.weight, out=self.total)
        return self.total


def moved(parameters: Parameters, change: npt.NDArray[np.floating]) -> Parameters:
    """``parameters + change`` for a vector (size,): in float64, rounded to each array's dtype."""
    if change.shape != (parameters.size,):
        raise ValueError(f"change of shape {change.shape} does not fit {parameters.size} values")
    parts: dict[str, npt.NDArray[np.floating]] = {}
    start = 0
    for name, array in parameters.items():
        part = np.empty(array.size, dtype=array.dtype)
        for into, piece in zip(_pieces(part), _pieces(array.reshape(-1)), strict=True):
            into[:] = change[start : start + piece.size].astype(np.float64) + piece
            start += piece.size
            parameters.release()
        parts[name] = part.reshape(array.shape)
        parts[name].flags.writeable = False
    return Parameters(parts)


def difference(after: Parameters, before: Parameters) -> Parameters:
    """``after - before``, array by array: exact, and rounded once to the arrays' dtype."""
    _same_layout(after, before)
    parts: dict[str, npt.NDArray[np.floating]] = {}
    for name, array in after.items():
        parts[name] = np.asarray(array - before[name])  # of 0-d arrays the difference is a number
        parts[name].flags.writeable = False
    return Parameters(parts)


def add(parameters: Parameters, delta: Parameters) -> Parameters:
    """``parameters + delta``, computed in float64 and rounded to the parameters' dtype."""
    _same_layout(parameters, delta)
    return parameters.unflatten(parameters.flatten() + delta.flatten())


def weighted_mean(items: Iterable[tuple[Parameters, float]]) -> Parameters:
    """Weighted mean, taken in the order given."""
    layout: Parameters | None = None
    running: WeightedSum | None = None
    for parameters, weight in items:
        if layout is None or running is None:
            layout, running = parameters, WeightedSum(np.zeros(parameters.size))
        _same_layout(parameters, layout)
        running = running.add(parameters, weight)
    if layout is None or running is None:
        raise ValueError("weighted mean of nothing")
    return layout.unflatten(running.mean())


def merge_sums(parts: Sequence[Mapping[str, npt.NDArray[np.generic]]]) -> dict[str, npt.NDArray[np.generic]]:
    """Field-wise addition of mappings with equal keys, shapes and dtypes: the one way in which site sums are merged.

    Raises
    ------
    ValueError
        Where the parts do not fit one another, or hold truth values, whose sum would be no count.
    """
    if not parts:
        raise ValueError("merge of no parts")
    merged = {name: np.array(array) for name, array in parts[0].items()}
    for name, array in merged.items():
        if array.dtype == np.bool_:
            raise ValueError(f"sum {name} has dtype bool, expected numbers")
    for part in parts[1:]:
        if part.keys() != merged.keys():
            raise ValueError(f"sums with fields {sorted(part)} cannot be merged with {sorted(merged)}")
        for name, array in part.items():
            if array.shape != merged[name].shape:
                raise ValueError(f"sum {name} has shape {array.shape}, expected {merged[name].shape}")
            if array.dtype != merged[name].dtype:
                raise ValueError(f"sum {name} has dtype {array.dtype}, expected {merged[name].dtype}")
            merged[name] = merged[name] + array
    return merged


def bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of an array in C order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _pieces(flat: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Views of at most `PIECE` values of a flat array, in order."""
    return (flat[first : first + PIECE] for first in range(0, flat.size, PIECE))


def _frozen(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    kept = array.copy() if array.flags.writeable else array
    kept.flags.writeable = False
    return kept


def _same_layout(a: Parameters, b: Parameters) -> None:
    if a.layout != b.layout:
        differing = [f"{x} against {y}" for x, y in zip(a.layout, b.layout, strict=False) if x != y]
        raise ValueError(f"parameters differ in layout: {(differing or [f'{len(a)} against {len(b)} arrays'])[0]}")
