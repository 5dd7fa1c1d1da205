"""Messages <-> a JSON header and a few arrays. No pickle; sizes and dtypes are checked before anything is built.

A message becomes ``(header, arrays)``: the header is JSON in which each array is replaced by its index, and
`Parameters` and other named arrays by their layout and the index of one flat array a dtype (`common.packing`). Decoding
is driven by the dataclass's own annotations: an unknown kind, a missing, unknown or mistyped field, a bad dtype or a
size that does not add up is refused with `MessageError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.errors import MessageError
from common.masking_messages import KeysAdvertised
from common.messages import REPLIES, REQUESTS, Difference, Message, PrivacyEvent, Question, Sums, TableStep
from common.packing import Array, checked_shape, pack, unpack

Encoded = tuple[bytes, list[Array]]

ALLOWED_DTYPES = ("<f8", "<f4", "<f2", "<i8", "<i4", "<u8", "<u4", "<u2", "|u1", "|i1", "|b1")
MAX_HEADER_BYTES = 16 << 20
MAX_ARRAYS = 4096
MAX_ITEMS = 1 << 18
"""Commas and brackets of a header: each may stand for a Python object, which is many times larger."""

MAX_INT = 2**63
MAX_DIGITS = 20

_TYPES: dict[str, type] = {cls.__name__: cls for cls in (*REQUESTS, *REPLIES)}
_NESTED: tuple[type, ...] = (TableStep, PrivacyEvent, KeysAdvertised, Difference)
_PACKED: tuple[Any, ...] = (Parameters, Sums)
_QUESTIONS: tuple[type, ...] = typing.get_args(Question)
_HINTS: dict[type, dict[str, Any]] = {
    cls: {field.name: typing.get_type_hints(cls)[field.name] for field in dataclasses.fields(cls)}
    for cls in (*_TYPES.values(), *_NESTED)
}


def encode(message: Message) -> Encoded:
    """Header bytes and arrays of a message. Arrays are views where that is possible."""
    arrays: list[Array] = []
    body = {"@kind": type(message).__name__, **_fields(message, arrays)}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode(), arrays


def encoded_size(encoded: Encoded) -> int:
    """Bytes of header and arrays together."""
    header, arrays = encoded
    return len(header) + sum(array.nbytes for array in arrays)


def message_digest(message: Message) -> str:
    """SHA-256 of a message as it travels: equal digests mean that two sites were asked the same, to the last bit."""
    header, arrays = encode(message)
    sha = hashlib.sha256(f"{len(header)}\n".encode() + header)
    for array in arrays:
        sha.update(f"{array.dtype.str} {array.size}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def decode(header: bytes, arrays: Sequence[Array]) -> Message:
    """The message of a header and its arrays.

    Raises
    ------
    MessageError
        For anything that is not exactly a message of this version.
    """
    if len(header) > MAX_HEADER_BYTES or len(arrays) > MAX_ARRAYS:
        raise MessageError(f"message with {len(header)} header bytes and {len(arrays)} arrays is too large")
    if sum(map(header.count, (b",", b"[", b"{"))) > MAX_ITEMS:
        raise MessageError(f"message header of more than {MAX_ITEMS} items")
    for array in arrays:
        if array.dtype.str not in ALLOWED_DTYPES:
            raise MessageError(f"array of dtype {array.dtype.str}, expected one of {', '.join(ALLOWED_DTYPES)}")
    try:
        body = json.loads(header, object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_float)
    except (ValueError, RecursionError) as error:
        raise MessageError("message header is not JSON") from error
    kind = body.get("@kind") if isinstance(body, dict) else None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise MessageError("message header names no known kind")
    unused = set(range(len(arrays)))
    message = _build(_TYPES[body.pop("@kind")], body, _Reader(arrays, unused))
    if unused:
        raise MessageError(f"{len(unused)} arrays belong to no field")
    return typing.cast(Message, message)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Hands out arrays by index, each once."""

    arrays: Sequence[Array]
    unused: set[int]

    def take(self, index: object) -> Array:
        if not isinstance(index, int) or isinstance(index, bool) or index not in self.unused:
            raise MessageError(f"array index {index!r} does not exist or was used before")
        self.unused.remove(index)
        return self.arrays[index]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could take different values of a key that is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _int(digits: str) -> int:
    number = int(digits) if len(digits) <= MAX_DIGITS else MAX_INT
    if not -MAX_INT <= number < MAX_INT:
        raise ValueError(f"number of {len(digits)} digits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is not allowed in a header")
    return number


def _fields(value: Any, arrays: list[Array]) -> dict[str, Any]:
    return {
        name: (_plain_packed if hint in _PACKED else _plain)(getattr(value, name), arrays)
        for name, hint in _HINTS[type(value)].items()
    }


def _plain(value: Any, arrays: list[Array]) -> Any:
    """JSON for one value; arrays are appended to ``arrays`` and replaced by ``{"@": index}``."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        if not -MAX_INT <= value < MAX_INT:
            raise MessageError("a message carries numbers of 64 bits")
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"@float": repr(value)}
    if isinstance(value, np.ndarray):
        return {"@": _append(value, arrays), "shape": list(value.shape)}
    if isinstance(value, Parameters):
        return _plain_packed(value, arrays)
    if isinstance(value, tuple | list):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, arrays) for key, item in value.items()}
    if type(value) in _QUESTIONS:
        return {"@kind": type(value).__name__, **_fields(value, arrays)}
    if type(value) in _NESTED:
        return _fields(value, arrays)
    raise MessageError(f"a message cannot carry a {type(value).__name__}")


def _plain_packed(named: Mapping[str, Array], arrays: list[Array]) -> dict[str, Any]:
    layout, flat = pack(named)
    return {"layout": layout, "packed": {dtype: _append(array, arrays) for dtype, array in flat.items()}}


def _append(array: Array, arrays: list[Array]) -> int:
    wire = np.ascontiguousarray(array).reshape(-1)
    wire = wire.astype(wire.dtype.newbyteorder("<"), copy=False)
    if wire.dtype.str not in ALLOWED_DTYPES:
        raise MessageError(f"a message cannot carry dtype {array.dtype}")
    arrays.append(wire)
    return len(arrays) - 1


def _build(cls: type, body: Any, reader: _Reader) -> Any:
    hints = _HINTS[cls]
    if not isinstance(body, dict) or body.keys() != hints.keys():
        got = sorted(body) if isinstance(body, dict) else type(body).__name__
        raise MessageError(f"{cls.__name__} has fields {got}, expected {sorted(hints)}")
    values = {name: _read(hint, body[name], reader, f"{cls.__name__}.{name}") for name, hint in hints.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise MessageError(f"{cls.__name__} breaks its invariant: {error}") from error


def _read(hint: Any, value: Any, reader: _Reader, where: str) -> Any:
    if hint in _PACKED:
        return (_read_parameters if hint is Parameters else _read_packed)(value, reader, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return _checked(value, value in typing.get_args(hint) and isinstance(value, str), hint, where)
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, reader, where)
    if origin is tuple:
        _checked(value, isinstance(value, list), hint, where)
        return tuple(_read(typing.get_args(hint)[0], item, reader, where) for item in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _checked(value, isinstance(value, dict), hint, where)
        return {key: _read(typing.get_args(hint)[1], item, reader, f"{where}[{key}]") for key, item in value.items()}
    if origin is np.ndarray:
        return _read_array(value, reader, where)
    if hint in _NESTED:
        return _build(hint, value, reader)
    return _read_scalar(hint, value, where)


def _read_union(options: tuple[Any, ...], value: Any, reader: _Reader, where: str) -> Any:
    """The one option of a union that the JSON shape points to; nothing is tried and thrown away."""
    if isinstance(value, dict) and "@kind" in value:
        return _read_question(options, value, reader, where)
    by_shape: list[tuple[bool, Callable[[Any], bool]]] = [
        (isinstance(value, dict) and "@" in value, lambda hint: typing.get_origin(hint) is np.ndarray),
        (isinstance(value, dict) and "@float" in value, lambda hint: hint is float),
        (isinstance(value, list), lambda hint: typing.get_origin(hint) is tuple),
        (isinstance(value, bool), lambda hint: hint is bool),
        (isinstance(value, str), lambda hint: hint is str),
        (isinstance(value, int) and not isinstance(value, bool), lambda hint: hint is int),
        (isinstance(value, float), lambda hint: hint is float),
    ]
    for applies, fits in by_shape:
        if applies:
            for hint in options:
                if fits(hint):
                    return _read(hint, value, reader, where)
            break
    raise MessageError(f"{where}: a {type(value).__name__} fits none of the allowed types")


def _read_question(options: tuple[Any, ...], value: dict[str, Any], reader: _Reader, where: str) -> Any:
    """A request within a request: one of those that the field allows, by its name."""
    found = [option for option in options if option in _QUESTIONS and option.__name__ == value["@kind"]]
    if not found:
        raise MessageError(f"{where}: holds no question that it may hold")
    return _build(found[0], {name: item for name, item in value.items() if name != "@kind"}, reader)


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, dict) and value.keys() == {"@float"} and value["@float"] in ("nan", "inf", "-inf"):
            return float(value["@float"])
        return float(_checked(value, isinstance(value, int | float) and not isinstance(value, bool), hint, where))
    if hint is int:
        return _checked(value, isinstance(value, int) and not isinstance(value, bool), hint, where)
    if hint in (str, bool):
        return _checked(value, isinstance(value, hint), hint, where)
    raise MessageError(f"{where}: no rule for type {hint}")


def _checked(value: Any, ok: bool, hint: Any, where: str) -> Any:
    if not ok:
        raise MessageError(f"{where}: got {type(value).__name__}, expected {hint}")
    return value


def _read_array(value: Any, reader: _Reader, where: str) -> Array:
    if not isinstance(value, dict) or value.keys() != {"@", "shape"}:
        raise MessageError(f"{where}: expected an array")
    array, shape = reader.take(value["@"]), checked_shape(value["shape"], where)
    if math.prod(shape) != array.size:
        raise MessageError(f"{where}: {array.size} values for shape {shape}")
    return array.reshape(shape)


def _read_packed(value: Any, reader: _Reader, where: str) -> dict[str, Array]:
    if not isinstance(value, dict) or value.keys() != {"layout", "packed"} or not isinstance(value["packed"], dict):
        raise MessageError(f"{where}: expected a layout and packed arrays")
    return unpack(value["layout"], {dtype: reader.take(index) for dtype, index in value["packed"].items()}, where)


def _read_parameters(value: Any, reader: _Reader, where: str) -> Parameters:
    try:
        return Parameters(typing.cast(Mapping[str, npt.NDArray[np.floating]], _read_packed(value, reader, where)))
    except TypeError as error:
        raise MessageError(f"{where}: {error}") from error
