"""A short run of every target, from other seeds each time hypothesis wants; and the bombs by name."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import MAX_ITEMS, decode
from common.errors import MessageError
from common.messages import REPLIES, REQUESTS
from common.wire import Limits, encode_message, inflate_record
from tests.common.messages_strategy import same
from tests.fuzz.damage import LARGE, MESSAGES, SEEDS
from tests.fuzz.targets import TARGETS, objects_of

MEGABYTE = 1 << 20


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_damaged_input_is_refused_or_understood(name: str, seed: int):
    TARGETS[name](random.Random(seed))


def test_the_seeds_are_messages_of_every_kind_and_come_back_as_they_were():
    assert {type(message) for message in MESSAGES} == {*REQUESTS, *REPLIES}
    for message, (header, arrays) in zip(MESSAGES, SEEDS, strict=True):
        assert same(decode(header, arrays), message)


@pytest.mark.parametrize("item", [b"[],", b"{},", b'{"a":1},', b'"ab",', b"1.5,", b'{"a":[]},'])
def test_a_header_of_very_many_items_is_refused_before_they_exist(item: bytes):
    header = b'{"@kind":"Done","x":[' + item * (8 * MEGABYTE // len(item)) + b"0]}"
    tracemalloc.start()
    with pytest.raises(MessageError, match="items"):
        decode(header, [])
    assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    tracemalloc.stop()


def test_as_many_items_as_are_allowed_cost_little():
    header = b'{"@kind":"Done","x":[' + b'{"a":1},' * (MAX_ITEMS // 3) + b"0]}"
    tracemalloc.start()
    with pytest.raises(MessageError):
        decode(header, [])
    assert tracemalloc.get_traced_memory()[1] < 64 * MEGABYTE
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["RecordDict", "ArrayRecord", "Array"])
def test_a_large_description_of_an_object_is_refused_before_it_is_read(kind: str):
    root, objects = objects_of(encode_message(LARGE).record)
    name = next(name for name, content in objects.items() if content.startswith(kind.encode() + b" "))
    head = objects[name].partition(b"\0")[0].rpartition(b" ")[0]
    body = b"[" + b"[]," * (5 * MEGABYTE // 3) + b"0]"
    objects[name] = head + b" %d\0" % len(body) + body
    _refused_in_little_memory(root, objects)


def test_an_object_with_very_many_children_is_refused_before_they_are_listed():
    root, objects = objects_of(encode_message(LARGE).record)
    objects[root] = b"Message " + b"," * (5 * MEGABYTE) + b" 0\0"
    _refused_in_little_memory(root, objects)


def _refused_in_little_memory(root: str, objects: dict[str, bytes]) -> None:
    tracemalloc.start()
    with pytest.raises(MessageError):
        inflate_record(root, objects, Limits())
    assert tracemalloc.get_traced_memory()[1] < 2 * MEGABYTE
    tracemalloc.stop()
