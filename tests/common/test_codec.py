"""What is decoded is what was encoded, to the bit; and nothing else is ever decoded."""

from __future__ import annotations

import json
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.arrays import Parameters
from common.codec import ALLOWED_DTYPES, MAX_ARRAYS, MAX_HEADER_BYTES, decode, encode, encoded_size, message_digest
from common.errors import MessageError
from common.messages import (
    REPLIES,
    REQUESTS,
    AskStatistic,
    Done,
    Hello,
    LocalUpdate,
    MaskedInput,
    Prepare,
    StatisticSums,
    Train,
)
from tests.common.messages_strategy import MESSAGES, same

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message):
    header, arrays = encode(message)
    assert same(decode(header, [array.copy() for array in arrays]), message)
    assert encoded_size((header, arrays)) == len(header) + sum(array.nbytes for array in arrays)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES)
def test_encoding_is_a_function(message):
    header, arrays = encode(message)
    again, same_arrays = encode(decode(header, arrays))
    assert again == header
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in same_arrays]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(header):
    with pytest.raises(MessageError):
        decode(header, [])


@given(st.sampled_from([cls.__name__ for cls in (*REQUESTS, *REPLIES)]), JSON)
def test_random_json_is_refused_or_is_a_message(kind, body):
    fields = body if isinstance(body, dict) else {}
    _message_or_refusal(json.dumps({**fields, "@kind": kind}).encode(), [])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.data())
def test_a_damaged_header_is_refused_or_is_another_whole_message(message, data):
    header, arrays = encode(message)
    place = data.draw(st.integers(0, len(header) - 1))
    damaged = header[:place] + data.draw(st.binary(max_size=3)) + header[place + data.draw(st.integers(0, 3)) :]
    _message_or_refusal(damaged, arrays)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, JSON, st.data())
def test_a_replaced_part_is_refused_or_is_another_whole_message(message, part, data):
    header, arrays = encode(message)
    body = json.loads(header)
    target = body
    while True:
        if isinstance(target, dict) and target:
            key = data.draw(st.sampled_from(sorted(target)))
        elif isinstance(target, list) and target:
            key = data.draw(st.integers(0, len(target) - 1))
        else:
            return
        if isinstance(target[key], dict | list) and target[key] and data.draw(st.booleans()):
            target = target[key]
        else:
            target[key] = part
            break
    _message_or_refusal(json.dumps(body).encode(), arrays)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.data())
def test_arrays_that_are_missing_repeated_or_of_another_size_are_refused(message, data):
    header, arrays = encode(message)
    for changed in ([*arrays, np.zeros(1)], arrays[:-1], [np.concatenate([a, a[:1]]) for a in arrays]):
        if len(changed) != len(arrays) or any(a.size != b.size for a, b in zip(changed, arrays, strict=True)):
            with pytest.raises(MessageError):
                decode(header, changed)


@pytest.mark.parametrize("dtype", [object, "U3", "S3", "c16", "M8[s]", "i2", ">f8", "V4"])
def test_an_array_of_another_dtype_is_refused(dtype):
    with pytest.raises(MessageError, match="dtype"):
        decode(b"{}", [np.zeros(2, dtype)])


@pytest.mark.parametrize("dtype", [object, "U3", "c16", "i2"])
def test_what_cannot_travel_is_refused_before_it_is_sent(dtype):
    with pytest.raises(MessageError):
        encode(StatisticSums(1, {"sum": np.zeros(2, dtype)}))


def test_big_endian_and_strided_arrays_travel_as_values():
    values = np.arange(12, dtype=">f8").reshape(3, 4)[:, ::2]
    decoded = decode(*encode(StatisticSums(1, {"sum": values})))
    assert decoded.sums["sum"].dtype == np.dtype("<f8")
    np.testing.assert_array_equal(decoded.sums["sum"], values)


def test_parameters_travel_as_one_array_a_dtype():
    parameters = Parameters({f"w{i}": np.full((2, i), i, np.float32 if i % 2 else np.float64) for i in range(20)})
    _, arrays = encode(Train("d", 0, "m", 1, parameters))
    assert len(arrays) == 2


def test_sizes_are_bounded():
    with pytest.raises(MessageError, match="too large"):
        decode(b" " * (MAX_HEADER_BYTES + 1), [])
    with pytest.raises(MessageError, match="too large"):
        decode(b"{}", [np.zeros(1)] * (MAX_ARRAYS + 1))


@pytest.mark.parametrize(
    "header",
    [
        b"", b"null", b"[]", b"1", b'"Done"', b"{}", b'{"@kind": "Message"}', b'{"@kind": ["Done"]}', b'{"@kind": {}}',
        b'{"@kind": "Done", "extra": 1}', b'{"@kind": "TableStep", "kind": "x", "values": {}}',
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": NaN}', b'{"@kind": "Prepare", "study_digest": "d"}',
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": true}', b"[" * 100_000, b'{"@kind":' * 50_000,
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": 1e999}',
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": 1' + b"0" * 400 + b"}",
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": 1' + b"0" * 5000 + b"}",
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": {"@float": "1e5"}}',
        b'{"@kind": "Prepare", "study_digest": "d", "budget_s": {"@float": []}}',
        b'{"@kind": "Finish", "study_digest": "d", "outcome": "exploded"}',
        b'{"@kind": "Finish", "study_digest": "d", "outcome": ["completed"]}',
        b'{"@kind": "Hello", "study_digest": "d", "versions": {"a": 1}, "schema_version": 1}',
        b'{"@kind": "Train", "study_digest": "d", "fold": 0, "model": "m", "round_number": 0, "parameters": '
        b'{"layout": [], "packed": {}}, "table_steps": []}',
        b'{"@kind": "AskStatistic", "study_digest": "d", "fold": 0, "kind": "k", "landmarks": {}, "table": "training", '
        b'"table_steps": [], "values": {"a": {"@": 0, "shape": [1]}}}',
        b'{"@kind": "AskStatistic", "study_digest": "d", "fold": 0, "kind": "k", "landmarks": {}, "table": "training", '
        b'"table_steps": [], "values": {"a": {"@": true, "shape": [1]}}}',
        b'{"@kind": "StatisticSums", "n_cases": 1, "privacy": [], "sums": {"a": {"@": 0, "shape": [1]}}}',
        b'{"@kind": "StatisticSums", "n_cases": 1, "privacy": [], "sums": {"layout": [], "packed": {"<f8": 0}}}',
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(header):
    with pytest.raises(MessageError):
        decode(header, [])


def test_a_key_given_twice_is_refused():
    with pytest.raises(MessageError):
        decode(b'{"@kind": "Refusal", "code": "a", "code": "b"}', [])


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_a_number_beyond_64_bits_is_refused_before_it_is_sent(number):
    with pytest.raises(MessageError):
        encode(Train("d", 0, "m", number, Parameters({})) if number > 0 else AskStatistic("d", number, "k", {}))


def question_with(values):
    """Header of a question that has these values."""
    body = {"study_digest": "d", "fold": 0, "kind": "k", "values": values}
    return json.dumps(
        {"@kind": "AskStatistic", "table": "training", "table_steps": [], "landmarks": {}, **body}
    ).encode()


def test_the_header_that_the_next_tests_break_is_whole():
    assert decode(question_with({"a": {"@": 0, "shape": [1]}}), [np.ones(1)]).values["a"] == np.ones(1)


def test_an_empty_array_of_an_impossible_shape_is_refused():
    with pytest.raises(MessageError):
        decode(question_with({"a": {"@": 0, "shape": [0, 2**39, 2**39]}}), [np.zeros(0)])


@pytest.mark.parametrize("shape", [[-1], [2, -1], [1.0], [True], [2**50], "1", None, [1] * 9, [[1]], {"0": 1}])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(MessageError):
        decode(question_with({"a": {"@": 0, "shape": shape}}), [np.zeros(1)])


def test_an_array_cannot_be_used_twice():
    with pytest.raises(MessageError, match="used before"):
        decode(question_with({name: {"@": 0, "shape": [1]} for name in "ab"}), [np.zeros(1)])


def test_sums_of_one_dtype_travel_as_one_array_whatever_their_number():
    """The shares for fifty hospitals would else be fifty arrays, and a transport's cost grows with these."""
    sums = {f"s{i}": np.full((2, 3), float(i)) for i in range(50)} | {"n": np.arange(4)}
    header, arrays = encode(StatisticSums(7, sums))
    assert [(array.dtype.str, array.size) for array in arrays] == [("<f8", 300), ("<i8", 4)]
    found = decode(header, arrays).sums
    assert list(found) == list(sums)
    for name, array in sums.items():
        np.testing.assert_array_equal(found[name], array)


def test_messages_do_not_share_memory_with_what_the_caller_may_change():
    """A reply is encoded when it is made, so later changes of the arrays in place do not reach the wire."""
    weights = np.ones(3)
    header, arrays = encode(LocalUpdate("m", 1, 1, Parameters({"w": weights}), 0.0))
    weights[:] = 7
    assert decode(header, arrays).delta["w"].tolist() == [1, 1, 1]


def test_every_kind_of_message_is_known_to_the_strategies():
    assert ALLOWED_DTYPES
    assert {type(x) for x in (Done(), Hello("d", {}), AskStatistic("d", 0, "k", {}))} < set(REQUESTS) | set(REPLIES)


def _message_or_refusal(header: bytes, arrays: list[np.ndarray]) -> None:
    """Nothing but a `MessageError` may come out; what is accepted must survive the way there and back."""
    try:
        message = decode(header, arrays)
    except MessageError:
        return
    assert same(decode(*encode(message)), message)


def question(round_number: int = 1, value: float = 1.0) -> Train:
    return Train("d", 0, "m", round_number, Parameters({"w": np.full(3, value)}))


def test_a_question_within_a_request_is_one_of_three():
    request = MaskedInput("d", "s", question(), ("a", "b"))
    header, arrays = encode(request)
    assert same(decode(header, arrays), request)
    for kind in (b"Hello", b"MaskedInput", b"Nonsense"):
        with pytest.raises(MessageError, match="holds no question that it may hold"):
            decode(header.replace(b'"@kind":"Train"', b'"@kind":"' + kind + b'"'), arrays)


def test_the_digest_of_a_question_survives_the_wire_and_tells_every_change():
    request = question()
    assert message_digest(cast(Train, decode(*encode(request)))) == message_digest(request)
    changed = [question(2), question(value=1.0 + 2**-52), Train("d", 1, "m", 1, request.parameters)]
    assert len({message_digest(item) for item in [request, *changed]}) == 4


def test_a_truncated_message_is_refused_wherever_it_ends_and_lost_or_reordered_arrays_too():
    header, arrays = encode(Train("d", 0, "m", 2, Parameters({"w": np.ones((2, 3)), "b": np.ones(2, np.float32)})))
    assert len(arrays) == 2
    for end in range(len(header)):
        with pytest.raises(MessageError):
            decode(header[:end], arrays)
    for broken in (arrays[:-1], [*arrays, arrays[0]], [], [arrays[0][:-1], *arrays[1:]], arrays[::-1]):
        with pytest.raises(MessageError, match=r"array|values"):
            decode(header, broken)


@pytest.mark.parametrize("budget_s", ["1e9", "-1.0", '{"@float":"inf"}', '{"@float":"nan"}'])
def test_a_hospital_cannot_be_kept_busy_without_end(budget_s):
    header, arrays = encode(Prepare("d", 5.0))
    with pytest.raises(MessageError, match="expected 0 to 600"):
        decode(header.replace(b'"budget_s":5.0', f'"budget_s":{budget_s}'.encode()), arrays)
