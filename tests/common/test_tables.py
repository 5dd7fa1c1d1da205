from __future__ import annotations

import numpy as np
import pytest

from common.tables import FeatureTable

VALUES = np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]])


def table() -> FeatureTable:
    return FeatureTable(VALUES, ("a", "b", "c"), ("p1", "p2"))


def test_columns_and_rows_come_in_the_order_asked():
    np.testing.assert_array_equal(table().select(["c", "a"]).values, [[3, 1], [6, 4]])
    np.testing.assert_array_equal(table().rows(["p2", "p1"]).values, VALUES[::-1])
    assert table().select(["c", "a"]).names == ("c", "a")
    assert table().rows(["p2"]).case_ids == ("p2",)
    assert table().rows([]).n_cases == 0
    assert table().select([]).n_features == 0


def test_selecting_everything_changes_nothing():
    same = table().rows(["p1", "p2"]).select(["a", "b", "c"])
    np.testing.assert_array_equal(same.values, VALUES)
    assert (same.names, same.case_ids) == (table().names, table().case_ids)


def test_what_is_not_there_is_refused_and_no_case_is_named():
    with pytest.raises(KeyError, match="features not in the table: x, y"):
        table().select(["a", "x", "y"])
    with pytest.raises(KeyError, match="1 of 2 cases are not in the table") as caught:
        table().rows(["p1", "p9"])
    assert "p9" not in str(caught.value)


def test_tables_stand_side_by_side():
    other = FeatureTable(np.array([[7.0], [8.0]]), ("d",), ("p1", "p2"))
    assert table().beside(other).names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(table().beside(other).values[:, 3], [7, 8])
    with pytest.raises(ValueError, match="different cases"):
        table().beside(FeatureTable(other.values, ("d",), ("p2", "p1")))
    with pytest.raises(ValueError, match="feature name given twice: a"):
        table().beside(FeatureTable(other.values, ("a",), ("p1", "p2")))


@pytest.mark.parametrize(
    ("values", "names", "ids", "reason"),
    [
        (np.zeros((2, 2)), ("a",), ("p1", "p2"), "do not fit 2 cases x 1 names"),
        (np.zeros((1, 2)), ("a", "a"), ("p1",), "feature name given twice: a"),
        (np.zeros((2, 1)), ("a",), ("p1", "p1"), "case id given twice: p1"),
        (np.zeros((1, 1), dtype=np.float32), ("a",), ("p1",), "float32, expected float64"),
        (np.array([[np.inf]]), ("a",), ("p1",), "infinities"),
    ],
)
def test_what_is_no_table_is_refused(values: np.ndarray, names: tuple[str, ...], ids: tuple[str, ...], reason: str):
    with pytest.raises(ValueError, match=reason):
        FeatureTable(values, names, ids)


def test_the_schema_is_the_ordered_names_and_not_the_cases():
    def schema(*names: str, n: int = 1) -> str:
        return FeatureTable(np.zeros((n, len(names))), names, tuple(f"p{i}" for i in range(n))).schema_digest

    assert schema("a", "b") == schema("a", "b", n=5)
    assert len({schema("a", "b"), schema("b", "a"), schema("a"), schema("a\nb"), schema(), schema("")}) == 6
