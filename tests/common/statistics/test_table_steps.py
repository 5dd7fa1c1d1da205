"""The steps from features to a training table: over the wire and back they change a table alike."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import MessageError, StatisticError
from common.messages import TableStep
from common.statistics.moments import Imputer, Scaler
from common.statistics.table_steps import TABLE_STEPS, Keep, Step, apply_steps, decode_steps, encode_steps
from common.tables import FeatureTable

TABLE = FeatureTable(np.array([[1.0, np.nan, 5.0], [3.0, 4.0, 7.0]]), ("a", "b", "c"), ("p1", "p2"))
STEPS: tuple[Step, ...] = (
    Keep(("c", "b")),
    Imputer(("c", "b"), np.array([0.0, 2.0])),
    Scaler(("c", "b"), np.array([6.0, 3.0]), np.array([1.0, 2.0])),
)


def test_steps_are_applied_in_order():
    table = apply_steps(TABLE, STEPS)
    assert table.names == ("c", "b")
    np.testing.assert_array_equal(table.values, [[-1, -0.5], [1, 0.5]])
    assert apply_steps(TABLE, ()) is TABLE


def test_steps_come_back_from_the_wire():
    back = decode_steps(encode_steps(STEPS))
    assert [type(step) for step in back] == [Keep, Imputer, Scaler]
    np.testing.assert_array_equal(apply_steps(TABLE, back).values, apply_steps(TABLE, STEPS).values)


def test_a_row_is_changed_alike_whatever_other_rows_there_are():
    whole = apply_steps(TABLE, STEPS).values
    for i, case_id in enumerate(TABLE.case_ids):
        np.testing.assert_array_equal(apply_steps(TABLE.rows([case_id]), STEPS).values, whole[i : i + 1])


def test_every_step_of_the_union_is_tested_here():
    assert {type(step) for step in STEPS} == set(TABLE_STEPS.values())


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (TableStep("pickle", {}), "no table step of kind 'pickle'; there are keep, imputer, scaler"),
        (TableStep("keep", {}), "absent fields"),
        (TableStep("keep", {"names": ("a",), "more": 1}), "unknown fields"),
        (TableStep("keep", {"names": 3}), "expected a tuple"),
        (TableStep("keep", {"names": (3,)}), "expected str"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([np.nan])}), "not finite"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([1, 2])}), "int64"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([1.0, 2.0])}), "one finite value"),
    ],
)
def test_what_is_no_step_is_refused(step: TableStep, reason: str):
    with pytest.raises(MessageError, match=reason):
        decode_steps([step])


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(StatisticError, match="features not in the table: x"):
        apply_steps(TABLE, [Keep(("a", "x"))])
