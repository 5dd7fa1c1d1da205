"""Valid messages of every kind, and the ways in which bytes and JSON go wrong."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from common.arrays import Parameters
from common.codec import ALLOWED_DTYPES, encode
from common.masking_messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    Consistent,
    KeysAdvertised,
    MaskedValues,
    ShareKeys,
    SharesSealed,
    Unmask,
    Unmasked,
)
from common.messages import (
    AskStatistic,
    Difference,
    Done,
    Evaluate,
    EvaluationSums,
    Finish,
    Hello,
    LocalUpdate,
    MaskedInput,
    Message,
    Prepare,
    Prepared,
    PrivacyEvent,
    Refusal,
    StatisticSums,
    TableStep,
    Train,
    Welcome,
)
from common.wire import INLINE_BYTES

_OCTETS = np.arange(32, dtype=np.uint8)
_MODEL = Parameters({"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(2.0), "e": np.zeros(0)})
_STEPS = (TableStep("scale", {"mean": np.arange(3.0), "names": ("a", "b"), "n": 3, "x": float("nan"), "on": True}),)
_SUMS = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array([True, False]), "c": np.zeros((0, 2))}
_KEYS = KeysAdvertised("east", _OCTETS, _OCTETS, _OCTETS, _OCTETS)
_QUESTION = AskStatistic("d", 0, "moments", {"x": np.arange(2.0)}, _STEPS)

MESSAGES: tuple[Message, ...] = (
    Hello("d", {"numpy": "2", "python": "3"}),
    Welcome("east", {"numpy": "2"}),
    Prepare("d", 5.0, "landmarks.t1", {"t1": (0.0, 1.5)}),
    Prepared(3, 1, 1, {"roi_empty": 1}, "schema", ("a", "b"), ("s1",), ("b",)),
    _QUESTION,
    StatisticSums(3, _SUMS),
    Train("d", 0, "cnn", 1, _MODEL, _STEPS, {"t1": (0.5,)}),
    Train("d", 0, "cnn", 2, Parameters({}), (), {}, "local-a", (Difference("b", "r", _OCTETS),)),
    LocalUpdate("cnn", 1, 5, _MODEL, 0.5, (PrivacyEvent("gaussian", 1.1, 0.1, 5),)),
    LocalUpdate("cnn", 1, 5, Parameters({}), 0.5, (), (_OCTETS,)),
    Evaluate("d", 0, "cnn", "test", _MODEL, _STEPS, _STEPS),
    EvaluationSums("cnn", 5, _SUMS),
    AdvertiseKeys("d", "0" * 32, "1" * 64, ("a", "b")),
    _KEYS,
    ShareKeys("d", "0" * 32, (_KEYS, _KEYS)),
    SharesSealed({"a": _OCTETS}, {"a": _OCTETS}, _OCTETS),
    MaskedInput("d", "0" * 32, _QUESTION, ("a",)),
    MaskedValues({"a": "f8"}, np.arange(3, dtype=np.uint64), np.arange(2, dtype=np.uint32)),
    ConsistencyCheck("d", "0" * 32, ("a",), {"a": _OCTETS}),
    Consistent(_OCTETS),
    Unmask("d", "0" * 32, {"a": _OCTETS}),
    Unmasked({"a": _OCTETS}, {}),
    Finish("d", "completed"),
    Done(),
    Refusal("state"),
)
LARGE = Train("d", 0, "cnn", 1, Parameters({"w": np.zeros(INLINE_BYTES // 8 + 1)}))
"""Its arrays travel apart from its header."""

SEEDS = tuple(encode(message) for message in MESSAGES)

TOKENS = (
    b"[", b"{", b"]", b"}", b'"', b",", b":", b"\\u0000", b"\\ud800", b"null", b"true", b"NaN", b"-Infinity", b"1e999",
    b"9" * 400, b"-1", b"4294967296", b"1099511627775", b"9223372036854775808", b'{"@":0}', b'{"@":0,"shape":[]}',
    b'"@float"', b'{"@float":"nan"}', b"@kind", b'"Train"', b'{"layout":[],"packed":{}}', b"[" * 3000, b'{"a":' * 3000,
    b"[]," * 5000, b"{}," * 5000, b"\x00", b"\xff", b"\xed\xa0\x80", b"\n", b" ",
)  # fmt: skip
"""What JSON readers, shapes and number parsers stumble over."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**40, 2**63 - 1, -(2**63), 2**64, 0.5, -0.0, 1e308, "", "nan", "a" * 5000, [],
    {}, [[]], {"@": 0}, {"@": 0, "shape": [2**39]}, {"@": 0, "shape": [2**20, 2**20]}, {"@": 0, "shape": [0, 2**40]},
    {"@": -1, "shape": []}, {"@": True, "shape": []}, {"@float": "inf"}, {"@float": 1}, {"layout": [], "packed": {}},
    {"layout": [["w", [2**39], "<f4"]], "packed": {"<f4": 0}}, {"layout": [["w", [1], "|O"]], "packed": {"|O": 0}},
    {"layout": [["w", [0] * 9, "<f4"]], "packed": {"<f4": 0}}, [0] * 3000, ["x"] * 3000, "../../etc/passwd",
)  # fmt: skip


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few random changes: bits, cuts, repeats, reordered pieces, tokens."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randint(0, len(content)) for _ in range(2))
        match rng.randint(0, 6):
            case 0 if content:
                place = rng.randrange(len(content))
                content = content[:place] + bytes([content[place] ^ (1 << rng.randint(0, 7))]) + content[place + 1 :]
            case 1:
                content = content[:a] + content[b:]
            case 2:
                content = content[:a] + content[a:b] * rng.randint(2, 3) + content[b:]
            case 3:
                content = content[b:] + content[a:b] + content[:a]
            case 4:
                content = content[:a] + rng.choice(TOKENS) + content[a:]
            case 5:
                content = content[:a] + rng.choice(TOKENS) + content[b:]
            case _:
                content = content[:a] + rng.randbytes(rng.randint(0, 8)) + content[b:]
    return content


def damaged_json(rng: random.Random, header: bytes) -> bytes:
    """Valid JSON in which a few parts are replaced, removed, renamed or added."""
    body = json.loads(header)
    for _ in range(rng.randint(1, 3)):
        holder: Any = body
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.7:
                holder = holder[key]
                continue
            _change(rng, holder, key)
            break
    return json.dumps(body).encode()


def damaged_arrays(rng: random.Random, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays that are missing, reordered, of another size or dtype, or random."""
    found = list(arrays)
    match rng.randint(0, 5):
        case 0:
            rng.shuffle(found)
        case 1 if found:
            found.pop(rng.randrange(len(found)))
        case 2:
            found.append(np.zeros(rng.randint(0, 5)))
        case 3 if found:
            place = rng.randrange(len(found))
            found[place] = found[place][: rng.randint(0, found[place].size)]
        case 4 if found:
            dtype = rng.choice([*ALLOWED_DTYPES, "O", "<U3", "<c16", "<M8[s]", "<u2"])
            found[rng.randrange(len(found))] = np.zeros(rng.randint(0, 5), dtype)
        case _:
            found = [np.frombuffer(rng.randbytes(array.nbytes), array.dtype) for array in found if array.dtype != bool]
    return found


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    match rng.randint(0, 3):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder["".join(rng.choices(string.ascii_lowercase + "@", k=3))] = deepcopy(rng.choice(VALUES))
        case 2 if isinstance(holder, list):
            holder.insert(key, deepcopy(rng.choice(VALUES)))
        case _:
            holder[key] = deepcopy(rng.choice(VALUES))
