"""Hypothesis strategies for messages, and a comparison that arrays take part in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.arrays import Parameters
from common.codec import ALLOWED_DTYPES
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
    LARGEST_LOSS,
    AskStatistic,
    Difference,
    Done,
    Evaluate,
    EvaluationSums,
    Finish,
    Hello,
    LocalUpdate,
    MaskedInput,
    Prepare,
    Prepared,
    PrivacyEvent,
    Refusal,
    StatisticSums,
    TableStep,
    Train,
    Welcome,
)

FLOATS = st.floats(width=64)
NAMES = st.text(max_size=12)
COUNTS = st.integers(0, 10**9)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from([np.dtype(dtype) for dtype in ALLOWED_DTYPES]).flatmap(lambda d: hnp.arrays(d, SHAPES))
FLOAT_ARRAYS = st.sampled_from([np.float64, np.float32, np.float16]).flatmap(lambda d: hnp.arrays(d, SHAPES))
SCALARS = st.integers(-(2**63), 2**63 - 1) | FLOATS | NAMES | st.booleans()
VALUES = st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3).map(tuple) | ARRAYS, max_size=4)
SUMS = st.dictionaries(NAMES, ARRAYS, max_size=4)
PARAMETERS = st.dictionaries(NAMES, FLOAT_ARRAYS, max_size=4).map(Parameters)
STEPS = st.lists(st.builds(TableStep, NAMES, VALUES), max_size=2).map(tuple)
EVENTS = st.lists(st.builds(PrivacyEvent, NAMES, st.floats(0, 1e300), st.floats(0, 1), COUNTS), max_size=2).map(tuple)
LOSSES = st.floats(-LARGEST_LOSS, LARGEST_LOSS)
ERROR_CODES = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)
COUNTED = st.dictionaries(NAMES, COUNTS, max_size=3)
TABLES = st.sampled_from(["training", "landmarks.t1", "repeats.ct-2"])
LANDMARKS = st.dictionaries(NAMES, st.lists(FLOATS, max_size=4).map(tuple), max_size=2)
COURSES = st.sampled_from(["federated", "pooled", "local-a"])
CODES = hnp.arrays(np.uint8, st.integers(0, 9))
DIFFERENCES = st.lists(st.builds(Difference, NAMES, NAMES, CODES), max_size=1).map(tuple)
NONE = st.just(Parameters({}))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def _prepared(usable: int, pending: int, exclusions: Mapping[str, int], names: list[str]) -> Prepared:
    listed = usable + pending + sum(exclusions.values())
    return Prepared(listed, usable, pending, exclusions, "digest", tuple(names))


QUESTIONS = st.one_of(
    st.builds(AskStatistic, NAMES, COUNTS, NAMES, VALUES, STEPS, st.just("training"), LANDMARKS),
    st.builds(Train, NAMES, COUNTS, NAMES, st.integers(1, 10**6), PARAMETERS, STEPS, LANDMARKS),
    st.builds(Evaluate, NAMES, COUNTS, NAMES, st.sampled_from(["train", "test"]), PARAMETERS, STEPS, STEPS, LANDMARKS),
)
SITES = st.lists(NAMES, max_size=3).map(tuple)
KEYS = st.builds(KeysAdvertised, NAMES, ARRAYS, ARRAYS, ARRAYS, ARRAYS)
MASKING = st.one_of(
    st.builds(AdvertiseKeys, NAMES, NAMES, NAMES, SITES),
    KEYS,
    st.builds(ShareKeys, NAMES, NAMES, st.lists(KEYS, max_size=2).map(tuple)),
    st.builds(SharesSealed, SUMS, SUMS, ARRAYS),
    st.builds(MaskedInput, NAMES, NAMES, QUESTIONS, SITES),
    st.builds(MaskedValues, st.dictionaries(NAMES, NAMES, max_size=3), ARRAYS, ARRAYS),
    st.builds(ConsistencyCheck, NAMES, NAMES, SITES, SUMS),
    st.builds(Consistent, ARRAYS),
    st.builds(Unmask, NAMES, NAMES, SUMS),
    st.builds(Unmasked, SUMS, SUMS),
)

MESSAGES = st.one_of(
    MASKING,
    st.builds(Hello, NAMES, st.dictionaries(NAMES, NAMES, max_size=3), COUNTS),
    st.builds(Welcome, NAMES, st.dictionaries(NAMES, NAMES, max_size=3)),
    st.builds(Prepare, NAMES, st.floats(0, 600), TABLES, LANDMARKS),
    st.builds(_prepared, COUNTS, COUNTS, COUNTED, st.lists(NAMES, max_size=3)),
    st.builds(AskStatistic, NAMES, COUNTS, NAMES, VALUES, STEPS, st.just("training"), LANDMARKS),
    st.builds(AskStatistic, NAMES, COUNTS, NAMES, VALUES, st.just(()), TABLES, LANDMARKS),
    st.builds(StatisticSums, COUNTS, SUMS, EVENTS),
    st.builds(Train, NAMES, COUNTS, NAMES, st.integers(1, 10**6), PARAMETERS, STEPS, LANDMARKS),
    st.builds(Train, NAMES, COUNTS, NAMES, st.integers(1, 9), NONE, STEPS, LANDMARKS, COURSES, DIFFERENCES),
    st.builds(
        Train,
        NAMES,
        COUNTS,
        NAMES,
        st.integers(1, 9),
        PARAMETERS,
        STEPS,
        LANDMARKS,
        COURSES,
        st.just(()),
        st.floats(0, 1e6),
    ),
    st.builds(
        LocalUpdate, NAMES, st.integers(1, 9), COUNTS.map(lambda n: n + 1), NONE, LOSSES, EVENTS, st.tuples(CODES)
    ),
    st.builds(LocalUpdate, NAMES, COUNTS, st.integers(1, 10**6), PARAMETERS, LOSSES, EVENTS),
    st.builds(Evaluate, NAMES, COUNTS, NAMES, st.sampled_from(["train", "test"]), PARAMETERS, STEPS, STEPS, LANDMARKS),
    st.builds(EvaluationSums, NAMES, COUNTS, SUMS, EVENTS),
    st.builds(Finish, NAMES, st.sampled_from(["completed", "aborted"])),
    st.just(Done()),
    st.builds(Refusal, ERROR_CODES),
)


def same(a: Any, b: Any) -> bool:
    """Equality down to dtypes, shapes, signs of zero and the place of NaN; types are compared too."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
    if isinstance(a, Parameters):
        return isinstance(b, Parameters) and list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.isnan(b) if math.isnan(a) else a.hex() == b.hex()
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()
