"""Every query is in the union, survives the wire, and is refused where it is not as agreed."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import numpy as np
import pytest

import common.statistics
from common.errors import MessageError
from common.statistics import QUERIES, decode_query, encode_query
from common.statistics.codec import decode_fields, encode_fields
from common.statistics.combat import combat
from common.statistics.combat_model import CombatSettings, adapt
from common.statistics.design import Covariates
from common.statistics.moments import MomentQuery, Scaler, moments
from common.statistics.pca import principal_components
from common.statistics.quantiles import median_imputer
from tests.common.statistics.cohorts import cohort, solve
from tests.common.statistics.examples import BATCHES, EXAMPLES, NAMES


def test_the_union_holds_every_query_class():
    found = set()
    for module in pkgutil.iter_modules(common.statistics.__path__, "common.statistics."):
        for item in vars(importlib.import_module(module.name)).values():
            if dataclasses.is_dataclass(item) and hasattr(item, "summarise") and hasattr(item, "case_counts"):
                found.add(item)
    assert found == set(QUERIES)
    assert len({query.kind for query in QUERIES}) == len(QUERIES)
    assert {type(example) for example in EXAMPLES} == set(QUERIES)


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_round_trip(query):
    kind, values = encode_query(query)
    back = decode_query(kind, values)
    assert type(back) is type(query)
    for field in dataclasses.fields(query):
        sent, arrived = getattr(query, field.name), getattr(back, field.name)
        if isinstance(sent, np.ndarray):
            assert sent.dtype == arrived.dtype
            np.testing.assert_array_equal(sent, arrived)
        else:
            assert sent == arrived


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_each_field_is_checked(query):
    kind, values = encode_query(query)
    with pytest.raises(MessageError, match="unknown fields"):
        decode_query(kind, {**values, "code": "import os"})
    for name in values:
        with pytest.raises(MessageError, match="absent fields"):
            decode_query(kind, {key: value for key, value in values.items() if key != name})
        with pytest.raises(MessageError, match=f"field {name}"):
            decode_query(kind, {**values, name: object()})
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            with pytest.raises(MessageError, match=f"field {name}: got array of float16"):
                decode_query(kind, {**values, name: value.astype(np.float16)})
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            with pytest.raises(MessageError, match="not finite"):
                decode_query(kind, {**values, name: np.full_like(value, np.nan)})


def learned_values():
    whole = cohort(80, 4)
    model = solve(lambda: combat(NAMES, CombatSettings(BATCHES, Covariates(("age",)))), [whole])
    return [
        model,
        adapt(model, whole.table, batch="new"),
        solve(lambda: principal_components(NAMES, 2), [whole]),
        solve(lambda: median_imputer(NAMES), [whole]),
        Scaler.standard(solve(lambda: moments(NAMES), [whole])),
    ]


@pytest.mark.parametrize("position", range(5))
def test_what_is_learned_survives_the_wire(position):
    value = learned_values()[position]
    back = decode_fields(type(value), encode_fields(value))
    for field in dataclasses.fields(value):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(value, field.name))
    spoilt = {**encode_fields(value), "names": ("only one",)}
    with pytest.raises(MessageError):
        decode_fields(type(value), spoilt)


def test_unknown_kind():
    with pytest.raises(MessageError, match="no query of kind 'rows'"):
        decode_query("rows", {})


def test_class_invariants_are_message_errors():
    kind, values = encode_query(MomentQuery(("a",), "all", ("all",), np.zeros((1, 1)), 1))
    for wrong in ({"order": 7}, {"centres": np.zeros((2, 1))}, {"order": True}, {"names": ("x" * 5000,)}):
        with pytest.raises(MessageError):
            decode_query(kind, {**values, **wrong})


def test_only_queries_of_the_union_are_sent():
    class Other(MomentQuery):
        pass

    with pytest.raises(MessageError, match="not a query of the union"):
        encode_query(Other(("a",), "all", ("all",), np.zeros((1, 1)), 1))
