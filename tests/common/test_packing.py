from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import MessageError
from common.packing import MAX_VALUES, pack, unpack

DTYPES = st.sampled_from(["<f8", "<f4", "<i8", "|u1", "|b1"])
NAMED = st.dictionaries(st.text(max_size=8), DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0))))


@given(NAMED)
def test_unpack_gives_back_what_was_packed(named):
    layout, flat = pack(named)
    assert sum(array.size for array in flat.values()) == sum(array.size for array in named.values())
    found = unpack(layout, flat, "here")
    assert list(found) == list(named)
    for name, array in named.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_only_array_of_its_dtype_is_not_copied():
    large = np.zeros(5)
    _, flat = pack({"a": large, "b": np.zeros(2, dtype=np.float32)})
    assert np.shares_memory(flat["<f8"], large)


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        (None, "expected a layout"), ({}, "expected a layout"), ("[]", "expected a layout"), ([], "left over"),
        ([["a", [2], "<f8"]], "left over"), ([["a", [4], "<f8"]], "exceeds"), ([["a", [3], "<f4"]], "no values of"),
        ([["a", [3], ["<f8"]]], "no values of"), ([["a", [3]]], "broken layout entry"), ([None], "broken layout entry"),
        ([[1, [3], "<f8"]], "broken layout entry"), ([["a", [1], "<f8"], ["a", [2], "<f8"]], "broken layout entry"),
        ([["a", [-3], "<f8"]], "expected a shape"), ([["a", [True, 3], "<f8"]], "expected a shape"),
        ([["a", [0, MAX_VALUES], "<f8"]], "expected a shape"), ([["a", 3, "<f8"]], "expected a shape"),
        ([["a", [1] * 9, "<f8"]], "expected a shape"), ([["a", [2**39, 4], "<f8"]], "expected a shape"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_the_values_is_refused(layout, fault):
    with pytest.raises(MessageError, match=f"here: .*{fault}"):
        unpack(layout, {"<f8": np.zeros(3)}, "here")


def test_values_of_another_dtype_than_they_are_said_to_be_are_refused():
    with pytest.raises(MessageError, match="no values of"):
        unpack([["a", [3], "<f4"]], {"<f4": np.zeros(3)}, "here")
