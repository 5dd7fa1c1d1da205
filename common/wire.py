"""Messages <-> Flower records: the header and ONE packed array, checked before anything is allocated.

The cost of Flower grows with the number of objects in a message, each of which is fetched by a request of its own. So
all arrays of a message lie in one run of bytes, one after the other, each starting at a multiple of `ALIGNMENT` bytes:
up to `INLINE_BYTES` in the `ConfigRecord` that holds the header of `common.codec` and the table of the arrays, and else
in an `ArrayRecord` with one raw array, which travels in chunks.

Flower cuts an array into chunks and lets the sender say which chunk stands where, any number of times: 5 MB sent may
ask for terabytes. `inflate_record` therefore puts objects together itself, and adds up the sizes first.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content

from common.codec import ALLOWED_DTYPES, MAX_ARRAYS, MAX_HEADER_BYTES, Encoded, decode, encode, encoded_size
from common.errors import MessageError
from common.messages import Message
from common.packing import Array as NumpyArray

WIRE_VERSION = 2
ALIGNMENT = 8
INLINE_BYTES = 1 << 18
"""Arrays up to this size travel in the header's record: three requests instead of six. Flower copies that record more
often than chunks, so large ones are cheaper apart."""

HEADER_RECORD, ARRAY_RECORD, PACKED = "message", "arrays", "packed"
RAW = "raw"
CHUNK_BYTES = 5 << 20
"""Size in which Flower cuts an array (``FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE``; a contract test compares)."""

MAX_HEAD_BYTES = 1 << 19
"""Of an object's list of children: 65 bytes each."""

MAX_JSON_BYTES = 1 << 17
"""Of an object's description in JSON: names and chunk numbers."""

FIXED_OBJECTS = 5
"""Message, RecordDict, ConfigRecord, ArrayRecord and Array: what a message is besides its chunks."""


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts of one message.

    Parameters
    ----------
    header_bytes, array_bytes : int
        Bytes of the header, and of all arrays with their padding.
    arrays : int
        Number of arrays.
    """

    header_bytes: int = MAX_HEADER_BYTES
    array_bytes: int = 2 << 30
    arrays: int = MAX_ARRAYS

    @property
    def objects(self) -> int:
        """Number of Flower objects that a message within these limits has at most."""
        return FIXED_OBJECTS + -(-self.array_bytes // CHUNK_BYTES)


@dataclass(frozen=True)
class WireMessage:
    """A message ready to be sent.

    Parameters
    ----------
    record : RecordDict
    size : int
        Bytes of header and arrays (`common.codec.encoded_size`).
    """

    record: RecordDict
    size: int


def encode_message(message: Message) -> WireMessage:
    """The Flower record of a message and its size."""
    encoded: Encoded = encode(message)
    header, arrays = encoded
    table = [f"{array.dtype.str}:{array.size}" for array in arrays]
    body = _packed(arrays)
    apart = len(body) > INLINE_BYTES
    inline = b"" if apart else body
    config = ConfigRecord({"version": WIRE_VERSION, "header": header, "table": table, "arrays": inline})
    record = RecordDict({HEADER_RECORD: config})
    if apart:
        record[ARRAY_RECORD] = ArrayRecord({PACKED: Array("uint8", (len(body),), RAW, body)})
    return WireMessage(record, encoded_size(encoded))


def decode_message(record: RecordDict, limits: Limits) -> Message:
    """The message of a Flower record; its arrays are read-only views of the record's bytes.

    Raises
    ------
    MessageError
        For anything that is not exactly a message within the limits.
    """
    config = record.get(HEADER_RECORD)
    if not isinstance(config, ConfigRecord) or set(record) - {HEADER_RECORD, ARRAY_RECORD}:
        raise MessageError("record holds no fedrad message")
    version = config.get("version")
    if version != WIRE_VERSION:
        other = version if isinstance(version, int) else "none"
        raise MessageError(
            f"record is of wire version {other}, this fedrad reads {WIRE_VERSION}: update the older side"
        )
    if set(config) != {"version", "header", "table", "arrays"}:
        raise MessageError("record holds no header, table and arrays")
    header, table = config["header"], config["table"]
    if not isinstance(header, bytes) or len(header) > limits.header_bytes:
        raise MessageError(f"header is not at most {limits.header_bytes} bytes")
    if not isinstance(table, list) or len(table) > limits.arrays:
        raise MessageError(f"table of arrays is not a list of at most {limits.arrays} entries")
    return decode(header, _unpacked([_entry(item) for item in table], _body(record, limits)))


def wire_size(record: RecordDict) -> int:
    """Bytes of header and arrays in a record, as `common.codec.encoded_size` counts them."""
    config = record[HEADER_RECORD]
    return len(config["header"]) + sum(size * dtype.itemsize for dtype, size in map(_entry, config["table"]))


class Objects(Protocol):
    """Flower objects by id: a dict, or a store that reads them one at a time."""

    def get(self, object_id: str, /) -> bytes | None: ...

    def pop(self, object_id: str, default: None, /) -> object: ...


def inflate_record(root: str, objects: Objects, limits: Limits) -> RecordDict:
    """The record of a Flower message, put together from its objects.

    Chunks are taken out of ``objects`` as they are used: a large message is in memory once.

    Parameters
    ----------
    root : str
        Object id of the Flower message.
    objects : Objects
        As they came from the network.

    Raises
    ------
    MessageError
        If an object is missing, of another type or shape, or the sizes exceed the limits.
    """
    children, _ = _object(objects, root, "Message")
    if len(children) != 1:
        raise MessageError("Flower message holds no record")
    record = RecordDict()
    _, body = _object(objects, children[0], "RecordDict")
    for name, object_id in _json_mapping(body).items():
        if name == HEADER_RECORD:
            record[name] = _config(objects, object_id, limits)
        elif name == ARRAY_RECORD:
            record[name] = _array_record(objects, object_id, limits)
        else:
            raise MessageError("Flower message holds an unknown record")
    return record


def _packed(arrays: list[NumpyArray]) -> bytes:
    parts: list[memoryview | bytes] = []
    for array in arrays:
        parts.append(array.view(np.uint8).data if array.size else b"")
        parts.append(bytes(-array.nbytes % ALIGNMENT))
    return b"".join(parts)


def _entry(item: object) -> tuple[np.dtype[Any], int]:
    dtype, separator, size = item.partition(":") if isinstance(item, str) else ("", "", "")
    if not separator or dtype not in ALLOWED_DTYPES or not (size.isascii() and size.isdigit()) or len(size) > 12:
        raise MessageError("table of arrays has a broken entry")
    return np.dtype(dtype), int(size)


def _body(record: RecordDict, limits: Limits) -> bytes:
    """The packed bytes, from the one place where so many of them belong."""
    inline = record[HEADER_RECORD]["arrays"]
    if not isinstance(inline, bytes):
        raise MessageError(f"arrays in the header's record are {type(inline).__name__}, expected bytes")
    if len(inline) > (most := min(INLINE_BYTES, limits.array_bytes)):
        raise MessageError(f"{len(inline)} bytes of arrays in the header's record, at most {most} are accepted")
    if ARRAY_RECORD not in record:
        return inline
    arrays = record[ARRAY_RECORD]
    if inline or not isinstance(arrays, ArrayRecord) or set(arrays) != {PACKED}:
        raise MessageError("record of arrays does not hold one packed array")
    packed = arrays[PACKED]
    if packed.stype != RAW or packed.dtype != "uint8" or packed.shape != (len(packed.data),):
        raise MessageError("packed array is not raw bytes of its own length")
    if not INLINE_BYTES < len(packed.data) <= limits.array_bytes:
        bounds = f"more than {INLINE_BYTES} and at most {limits.array_bytes}"
        raise MessageError(f"{len(packed.data)} bytes of arrays apart, {bounds} are accepted")
    return bytes(packed.data)


def _unpacked(table: list[tuple[np.dtype[Any], int]], body: bytes) -> list[NumpyArray]:
    spans = [size * dtype.itemsize for dtype, size in table]
    if sum(span + -span % ALIGNMENT for span in spans) != len(body):
        raise MessageError("table of arrays does not add up to the packed bytes")
    arrays: list[NumpyArray] = []
    start = 0
    for (dtype, size), span in zip(table, spans, strict=True):
        if dtype.kind == "b" and np.frombuffer(body, np.uint8, size, start).max(initial=0) > 1:
            raise MessageError("array of truth values holds other values than 0 and 1")
        arrays.append(np.frombuffer(body, dtype, size, start))
        start += span + -span % ALIGNMENT
    return arrays


def _object(objects: Objects, object_id: object, kind: str) -> tuple[list[str], memoryview]:
    """Children and body of one Flower object; the body is a view."""
    content = objects.get(object_id) if isinstance(object_id, str) else None
    if content is None:
        raise MessageError(f"object of type {kind} is missing")
    if content.find(b"\x00", 0, MAX_HEAD_BYTES) < 0:
        raise MessageError("object has no head, or a very long one")
    try:
        found, children, length = get_object_head_values_from_object_content(content)
    except ValueError as error:
        raise MessageError("object has no valid head") from error
    body = memoryview(content)[content.find(b"\x00") + 1 :]
    if found != kind or len(body) != length:
        raise MessageError(f"object is not a whole {kind}")
    return children, body


def _json_mapping(body: memoryview) -> dict[str, Any]:
    if len(body) > MAX_JSON_BYTES:
        raise MessageError(f"object describes itself in {len(body)} bytes, at most {MAX_JSON_BYTES} are accepted")
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise MessageError("object is not JSON") from error
    if not isinstance(found, dict):
        raise MessageError("object is not a mapping")
    return found


def _config(objects: Objects, object_id: object, limits: Limits) -> ConfigRecord:
    _, body = _object(objects, object_id, "ConfigRecord")
    if len(body) > limits.header_bytes + INLINE_BYTES + limits.arrays * 32:
        raise MessageError(f"header is not at most {limits.header_bytes} bytes")
    try:
        return ConfigRecord.inflate(objects.get(str(object_id)))
    except Exception as error:  # protobuf and flwr raise what they like on damaged bytes: all of it means "no message"
        raise MessageError("header record cannot be read") from error


def _array_record(objects: Objects, object_id: object, limits: Limits) -> ArrayRecord:
    _, body = _object(objects, object_id, "ArrayRecord")
    references = _json_mapping(body)
    if set(references) != {PACKED}:
        raise MessageError("record of arrays does not hold one packed array")
    children, body = _object(objects, references[PACKED], "Array")
    described = _json_mapping(body)
    order = described.get("arraychunk_ids")
    if not isinstance(order, list) or len(order) > limits.objects:
        raise MessageError(f"array is not cut into at most {limits.objects} chunks")
    if not all(type(index) is int and 0 <= index < len(children) for index in order):
        raise MessageError("array names a chunk that does not exist")
    sizes = [len(_object(objects, child, "ArrayChunk")[1]) for child in children]
    total = sum(sizes[index] for index in order)
    if total > limits.array_bytes or described.get("shape") != [total]:
        raise MessageError(f"{total} bytes of arrays, at most {limits.array_bytes} are accepted")
    if described.get("dtype") != "uint8" or described.get("stype") != RAW:
        raise MessageError("packed array is not raw bytes")
    whole = BytesIO(bytes(total))  # of its size from the start: it does not grow, and is not copied in the end
    uses = Counter(children[index] for index in order)
    for index in order:
        whole.write(_object(objects, children[index], "ArrayChunk")[1])
        uses[children[index]] -= 1
        if not uses[children[index]]:
            objects.pop(children[index], None)
    return ArrayRecord({PACKED: Array("uint8", (total,), RAW, whole.getvalue())})
