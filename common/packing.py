"""Named arrays <-> one flat array a dtype and a layout: both halves.

A transport's cost grows with the number of arrays, so all tensors of a model, or the shares for fifty hospitals, travel
as one. What comes back are views of the flat arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import MessageError

Array = npt.NDArray[np.generic]

MAX_SIDES = 8
MAX_VALUES = 2**40
"""Bound of each side of a shape and of the product of all sides."""


def pack(named: Mapping[str, Array]) -> tuple[list[list[Any]], dict[str, Array]]:
    """Layout, ``[name, shape, dtype]`` of each array in order, and the values of each dtype, shape (n,).

    The dtypes are little-endian, by their ``str``. An array that is the only one of its dtype is not copied.
    """
    parts: dict[str, list[Array]] = {}
    layout: list[list[Any]] = []
    for name, array in named.items():
        dtype = array.dtype.newbyteorder("<").str
        parts.setdefault(dtype, []).append(array.reshape(-1))
        layout.append([name, list(array.shape), dtype])
    flat = {dtype: same[0] if len(same) == 1 else np.concatenate(same) for dtype, same in parts.items()}
    return layout, flat


def unpack(layout: Any, flat: Mapping[str, Array], where: str) -> dict[str, Array]:
    """What `pack` was given, from a layout that anyone may have written.

    Raises
    ------
    MessageError
        If the layout is none, names an array twice, or does not add up to the values.
    """
    if not isinstance(layout, list):
        raise MessageError(f"{where}: got {type(layout).__name__}, expected a layout")
    start = dict.fromkeys(flat, 0)
    named: dict[str, Array] = {}
    for entry in layout:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str) or entry[0] in named:
            raise MessageError(f"{where}: broken layout entry")
        name, shape, dtype = entry[0], checked_shape(entry[1], where), entry[2]
        if not isinstance(dtype, str) or dtype not in flat or flat[dtype].dtype.str != dtype:
            raise MessageError(f"{where}: no values of {name}'s dtype were packed")
        end = start[dtype] + math.prod(shape)
        if end > flat[dtype].size:
            raise MessageError(f"{where}: {name} of dtype {dtype} exceeds the packed values")
        named[name] = flat[dtype][start[dtype] : end].reshape(shape)
        start[dtype] = end
    if any(start[dtype] != array.size for dtype, array in flat.items()):
        raise MessageError(f"{where}: packed values are left over")
    return named


def checked_shape(value: Any, where: str) -> tuple[int, ...]:
    """The shape that a header gives; MessageError where it is none, or of an array that no memory holds."""
    ok = isinstance(value, list) and len(value) <= MAX_SIDES
    ok = ok and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < MAX_VALUES for n in value)
    if not ok or math.prod(max(n, 1) for n in value) >= MAX_VALUES:
        raise MessageError(f"{where}: got {type(value).__name__}, expected a shape")
    return tuple(value)
