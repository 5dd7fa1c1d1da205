"""Messages through Flower records: the same to the bit, few objects, and no byte allocated on a stranger's word."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.arrays import Parameters
from common.codec import encode, encoded_size
from common.errors import MessageError
from common.messages import Done, StatisticSums, Train
from common.wire import (
    ALIGNMENT,
    ARRAY_RECORD,
    CHUNK_BYTES,
    FIXED_OBJECTS,
    HEADER_RECORD,
    INLINE_BYTES,
    PACKED,
    Limits,
    decode_message,
    encode_message,
    inflate_record,
    wire_size,
)
from tests.common.messages_strategy import MESSAGES, same

LIMITS = Limits()
N_APART = INLINE_BYTES // 8 + 1
"""Values of float64 that no longer travel in the header's record."""


@pytest.fixture(params=[0, INLINE_BYTES], ids=["apart", "inline"])
def places(request, monkeypatch):
    """Arrays of hypothesis are small: once as if they were large."""
    monkeypatch.setattr("common.wire.INLINE_BYTES", request.param)


def objects_of(record: RecordDict) -> tuple[str, dict[str, bytes]]:
    """What Flower would send for a record: the root's id and the content of every object."""
    metadata = Metadata(1, "", 1, 2, "", "", 1e9, 60.0, "query")
    message: Message = make_message(metadata=metadata, content=record)
    return message.object_id, {name: value.deflate() for name, value in get_all_nested_objects(message).items()}


@pytest.mark.usefixtures("places")
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message):
    wire = encode_message(message)
    root, objects = objects_of(wire.record)
    received = inflate_record(root, objects, LIMITS)
    assert same(decode_message(received, LIMITS), message)
    assert wire.size == wire_size(received) == encoded_size(encode(message))


@pytest.mark.parametrize("n", [5, N_APART])
def test_arrays_are_views_of_what_arrived_and_start_aligned(n):
    sums = {"a": np.ones(3, np.uint8), "b": np.arange(float(n)), "c": np.ones((2, 2), bool)}
    record = encode_message(StatisticSums(1, sums)).record
    decoded = decode_message(record, LIMITS).sums
    arrived = record[ARRAY_RECORD][PACKED].data if ARRAY_RECORD in record else record[HEADER_RECORD]["arrays"]
    whole = np.frombuffer(arrived, np.uint8)
    for array in decoded.values():
        assert not array.flags.writeable
        assert np.shares_memory(array, whole)
        assert array.__array_interface__["data"][0] % ALIGNMENT == 0


def test_a_message_is_few_objects_whatever_the_number_of_its_arrays():
    many = {f"layer{i}.weight": np.full((32, 32), i, np.float32) for i in range(120)}
    _, objects = objects_of(encode_message(Train("d", 0, "m", 1, Parameters(many))).record)
    assert len(objects) == FIXED_OBJECTS + 1
    few = {name: many[name] for name in list(many)[:60]}
    for small in (Train("d", 0, "m", 1, Parameters(few)), Done()):
        _, objects = objects_of(encode_message(small).record)
        assert len(objects) == FIXED_OBJECTS - 2


@pytest.mark.parametrize(("n", "apart"), [(N_APART - 1, False), (N_APART, True)])
def test_the_largest_arrays_in_the_header_and_the_smallest_apart_come_back(n, apart):
    message = StatisticSums(1, {"x": np.arange(float(n))})
    record = encode_message(message).record
    assert (ARRAY_RECORD in record) == apart
    root, objects = objects_of(record)
    assert same(decode_message(inflate_record(root, objects, LIMITS), LIMITS), message)


def test_the_number_of_objects_within_the_limits_is_right():
    limits = Limits(array_bytes=2 * CHUNK_BYTES + 8)
    values = np.random.default_rng(0).random(2 * CHUNK_BYTES // 8 + 1)
    _, objects = objects_of(encode_message(StatisticSums(1, {"x": values})).record)
    assert len(objects) == limits.objects


@pytest.mark.parametrize(
    "limits", [Limits(header_bytes=10), Limits(array_bytes=79), Limits(arrays=0)], ids=["header", "bytes", "arrays"]
)
def test_what_is_larger_than_the_limits_is_refused(limits):
    record = encode_message(StatisticSums(1, {"x": np.arange(10.0)})).record
    with pytest.raises(MessageError):
        decode_message(record, limits)
    root, objects = objects_of(record)
    with pytest.raises(MessageError):
        decode_message(inflate_record(root, objects, limits), limits)


def test_a_chunk_repeated_a_million_times_is_refused_before_it_is_allocated():
    """5 MB on the wire would become 5 TB in Flower's own inflation."""
    record = encode_message(StatisticSums(1, {"x": np.random.default_rng(0).random(CHUNK_BYTES // 8)})).record
    root, objects = objects_of(record)
    array_id = next(name for name, content in objects.items() if content.startswith(b"Array "))
    for order, shape in ([0] * 400, CHUNK_BYTES * 400), ([0] * 10**6, CHUNK_BYTES), ([0, 0], CHUNK_BYTES):
        body = json.dumps({"dtype": "uint8", "shape": [shape], "stype": "raw", "arraychunk_ids": order}).encode()
        head = objects[array_id].partition(b"\0")[0].rpartition(b" ")[0]
        changed = {**objects, array_id: head + b" %d\0" % len(body) + body}
        tracemalloc.start()
        with pytest.raises(MessageError):
            inflate_record(root, changed, Limits(array_bytes=1 << 30))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


@pytest.mark.usefixtures("places")
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(MESSAGES, st.data())
def test_a_damaged_object_is_refused_or_still_a_whole_message(message, data):
    root, objects = objects_of(encode_message(message).record)
    name = data.draw(st.sampled_from(sorted(objects)))
    content = objects[name]
    place = data.draw(st.integers(0, len(content)))
    objects[name] = content[:place] + data.draw(st.binary(max_size=4)) + content[place + data.draw(st.integers(0, 4)) :]
    if data.draw(st.booleans()):
        del objects[data.draw(st.sampled_from(sorted(objects)))]
    try:
        decoded = decode_message(inflate_record(root, objects, LIMITS), LIMITS)
    except MessageError:
        return
    again = encode_message(decoded).record
    assert same(decode_message(again, LIMITS), decoded)


@given(st.dictionaries(st.text(max_size=3), st.binary(max_size=40), max_size=3), st.text(max_size=3))
def test_random_objects_are_refused(objects, root):
    with pytest.raises(MessageError):
        inflate_record(root, objects, LIMITS)


def _good() -> dict[str, object]:
    return dict(encode_message(Done()).record[HEADER_RECORD])


def _array(**changes: object) -> Array:
    size = 8 * N_APART
    values = {"dtype": "uint8", "shape": (size,), "stype": "raw", "data": bytes(size), **changes}
    return Array(values["dtype"], values["shape"], values["stype"], values["data"])  # type: ignore[call-overload]


def _sums(**changes: object) -> dict[str, object]:
    """The header's record of one array that lies apart."""
    record = encode_message(StatisticSums(1, {"x": np.zeros(N_APART)})).record
    return dict(record[HEADER_RECORD]) | changes


def _inline(**changes: object) -> RecordDict:
    record = encode_message(StatisticSums(1, {"x": np.zeros(2)})).record
    return RecordDict({HEADER_RECORD: ConfigRecord(dict(record[HEADER_RECORD]) | changes)})


def test_the_records_that_the_next_test_breaks_are_whole():
    apart = RecordDict({HEADER_RECORD: ConfigRecord(_sums()), ARRAY_RECORD: ArrayRecord({PACKED: _array()})})
    assert [decode_message(record, LIMITS).sums["x"].size for record in (apart, _inline())] == [N_APART, 2]


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({HEADER_RECORD: MetricRecord({"a": 1})}),
        RecordDict({"other": ConfigRecord(_good())}),
        RecordDict({HEADER_RECORD: ConfigRecord(_good()), "other": ConfigRecord()}),
        RecordDict({HEADER_RECORD: ConfigRecord({**_good(), "extra": 1})}),
        RecordDict({HEADER_RECORD: ConfigRecord({**_good(), "version": 1})}),
        RecordDict({HEADER_RECORD: ConfigRecord({**_good(), "header": "text"})}),
        RecordDict({HEADER_RECORD: ConfigRecord({**_good(), "table": "<f8:1"})}),
        RecordDict({HEADER_RECORD: ConfigRecord(_good()), ARRAY_RECORD: ConfigRecord()}),
        RecordDict({HEADER_RECORD: ConfigRecord(_good()), ARRAY_RECORD: ArrayRecord({PACKED: _array()})}),
        RecordDict({HEADER_RECORD: ConfigRecord(_good()), ARRAY_RECORD: ArrayRecord({"other": _array()})}),
        RecordDict({HEADER_RECORD: ConfigRecord(_sums())}),
        RecordDict(
            {HEADER_RECORD: ConfigRecord(_sums(arrays=bytes(8))), ARRAY_RECORD: ArrayRecord({PACKED: _array()})}
        ),
        _inline(arrays="text"),
        _inline(arrays=bytes(8)),
        _inline(arrays=bytes(24)),
        _inline(table=["|b1:16"], arrays=b"\x02" * 16),
        _inline(header=_sums()["header"], table=[f"<f8:{N_APART}"], arrays=bytes(8 * N_APART)),
        RecordDict(
            {
                HEADER_RECORD: ConfigRecord(dict(_inline()[HEADER_RECORD]) | {"arrays": b""}),
                ARRAY_RECORD: ArrayRecord({PACKED: _array(shape=(16,), data=bytes(16))}),
            }
        ),
        *[
            RecordDict(
                {
                    HEADER_RECORD: ConfigRecord(_sums(table=table)),
                    ARRAY_RECORD: ArrayRecord({PACKED: array}),
                }
            )
            for table, array in [
                ([f"<f8:{N_APART}"], _array(dtype="float64")),
                ([f"<f8:{N_APART}"], _array(stype="numpy.ndarray")),
                ([f"<f8:{N_APART}"], _array(shape=(8 * N_APART + 1,))),
                ([f"<f8:{N_APART}"], _array(shape=(2, 4 * N_APART))),
                ([f"<f8:{N_APART + 1}"], _array()),
                ([f"|O8:{N_APART}"], _array()),
                (["<f8"], _array()),
                (["<f8:-1"], _array()),
                (["<f8:\u0661"], _array()),
                (["<f8:" + "9" * 13], _array()),
                ([1], _array()),
                ([f"|b1:{8 * N_APART}"], _array(data=b"\x02" * 8 * N_APART)),
            ]
        ],
    ],
)
def test_a_record_that_is_no_message_is_refused(record):
    with pytest.raises(MessageError):
        decode_message(record, LIMITS)


def test_another_wire_version_is_refused_with_both_named():
    with pytest.raises(MessageError, match="of wire version 1, this fedrad reads 2: update the older side"):
        decode_message(RecordDict({HEADER_RECORD: ConfigRecord({**_good(), "version": 1})}), LIMITS)


def test_flower_can_inflate_what_we_send_and_we_read_what_flower_inflates():
    """Stock Flower nodes hand over records that Flower put together."""
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    for n in (3, N_APART):
        message = Train("d", 0, "m", 1, Parameters({"w": np.arange(float(n))}))
        root, objects = objects_of(encode_message(message).record)
        assert all(get_object_id(content) == name for name, content in objects.items())
        inflated = inflate_object_from_contents(root, objects)
        assert same(decode_message(inflated.content, LIMITS), message)
