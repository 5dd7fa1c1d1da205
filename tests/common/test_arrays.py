from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.arrays import Parameters, WeightedSum, add, difference, merge_sums, moved, weighted_mean

FLOATS = st.floats(-1e6, 1e6, width=32)
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype("f4"), np.dtype("f8")]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    elements=FLOATS,
)
PARAMETERS = st.dictionaries(st.text("abc.", min_size=1, max_size=5), ARRAYS, max_size=4).map(Parameters)


def vector(*values: float) -> Parameters:
    return Parameters({"w": np.array(values, dtype=np.float64)})


@given(PARAMETERS)
def test_unflatten_undoes_flatten(parameters: Parameters):
    back = parameters.unflatten(parameters.flatten())
    assert back.layout == parameters.layout
    assert back.digest() == parameters.digest()
    assert parameters.flatten().shape == (parameters.size,)


@given(PARAMETERS, st.integers(0, 2**32 - 1))
def test_flatten_undoes_unflatten_up_to_the_dtype(parameters: Parameters, seed: int):
    values = np.random.default_rng(seed).normal(size=parameters.size)
    np.testing.assert_allclose(parameters.unflatten(values).flatten(), values, rtol=1e-6)


def test_a_vector_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit 2 values"):
        vector(1, 2).unflatten(np.zeros(3))


def test_only_floats_are_parameters():
    with pytest.raises(TypeError, match="parameter n has dtype int64"):
        Parameters({"n": np.arange(3)})  # type: ignore[dict-item]  # what is tested


def test_nobody_changes_parameters_afterwards():
    mine = np.zeros(3)
    parameters = Parameters({"w": mine})
    mine[0] = 9
    assert parameters["w"][0] == 0
    for array in (parameters["w"], parameters.unflatten(np.ones(3))["w"], add(parameters, parameters)["w"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_read_only_array_is_not_copied():
    mine = np.zeros(3)
    mine.flags.writeable = False
    assert Parameters({"w": mine})["w"] is mine


@given(PARAMETERS)
def test_norm_is_that_of_all_values(parameters: Parameters):
    expected = sum(float((array.astype(np.float64) ** 2).sum()) for array in parameters.values()) ** 0.5
    assert parameters.norm() == pytest.approx(expected)


def test_zero_dimensional_arrays_count():
    parameters = Parameters({"temperature": np.array(3.0), "w": np.array([4.0])})
    assert parameters.size == 2
    assert parameters.norm() == 5.0
    assert parameters.unflatten(np.array([1.0, 2.0]))["temperature"].shape == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_and_stays(bad: float):
    parameters = Parameters({"b": np.array(bad), "w": np.zeros(2)})
    assert not parameters.all_finite()
    assert not np.isfinite(parameters.norm())
    assert not np.isfinite(add(vector(bad), vector(1.0)).norm())
    assert Parameters({}).all_finite()


def test_the_digest_feels_name_order_shape_dtype_and_every_bit():
    base = {"a": np.zeros(4, dtype=np.float32), "b": np.ones(2, dtype=np.float32)}
    variants = [
        base,
        {"b": base["b"], "a": base["a"]},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(2, 2), "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"], "b": np.nextafter(base["b"], np.float32(2))},
        {"a": -base["a"], "b": base["b"]},  # minus zero has other bits
    ]
    assert len({Parameters(arrays).digest() for arrays in variants}) == len(variants)
    assert Parameters(base).digest() == Parameters({k: v.copy() for k, v in base.items()}).digest()


def test_the_digest_does_not_depend_on_the_memory_layout():
    array = np.arange(6.0).reshape(2, 3)
    assert Parameters({"w": array}).digest() == Parameters({"w": np.asfortranarray(array)}).digest()


def test_difference_and_sum_are_inverse():
    before, after = vector(0.1, 0.2), vector(0.4, -1.0)
    np.testing.assert_allclose(add(before, difference(after, before)).flatten(), after.flatten(), rtol=1e-15)
    with pytest.raises(ValueError, match="differ in layout"):
        difference(vector(1.0), vector(1.0, 2.0))
    with pytest.raises(ValueError, match="2 against 1 arrays"):
        add(Parameters({"w": np.zeros(1), "v": np.zeros(1)}), Parameters({"w": np.zeros(1)}))


WEIGHTED = st.lists(st.tuples(hnp.arrays(np.float64, 3, elements=FLOATS), st.floats(0.1, 100)), min_size=1, max_size=6)


@given(WEIGHTED)
def test_the_weighted_mean_is_numpys(items: list[tuple[np.ndarray, float]]):
    mean = weighted_mean((vector(*values), weight) for values, weight in items)
    expected = np.average([values for values, _ in items], axis=0, weights=[weight for _, weight in items])
    np.testing.assert_allclose(mean.flatten(), expected, rtol=1e-9, atol=1e-6)


@given(WEIGHTED, st.floats(0.5, 4))
def test_the_weighted_mean_lies_between_and_ignores_the_unit_of_weights(
    items: list[tuple[np.ndarray, float]], factor: float
):
    mean = weighted_mean((vector(*values), weight) for values, weight in items).flatten()
    stacked = np.array([values for values, _ in items])
    assert (mean >= stacked.min(axis=0) - 1e-3).all()
    assert (mean <= stacked.max(axis=0) + 1e-3).all()
    scaled = weighted_mean((vector(*values), factor * weight) for values, weight in items).flatten()
    np.testing.assert_allclose(scaled, mean, rtol=1e-9, atol=1e-6)


@given(hnp.arrays(np.float64, 3, elements=FLOATS), st.lists(st.floats(0.1, 100), min_size=1, max_size=5))
def test_the_mean_of_equal_vectors_is_that_vector(values: np.ndarray, weights: list[float]):
    mean = weighted_mean((vector(*values), weight) for weight in weights)
    np.testing.assert_allclose(mean.flatten(), values, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
def test_weights_are_positive_numbers(weight: float):
    with pytest.raises(ValueError, match="weight must be positive and finite"):
        WeightedSum(np.zeros(1)).add(np.ones(1), weight)


def test_the_mean_of_nothing_is_undefined():
    with pytest.raises(ValueError, match="weighted mean of nothing"):
        weighted_mean([])
    with pytest.raises(ValueError, match="mean of no vectors"):
        WeightedSum(np.zeros(1)).mean()


@given(st.lists(hnp.arrays(np.int64, 3, elements=st.integers(-1000, 1000)), min_size=2, max_size=6))
def test_merging_is_addition_in_any_grouping(parts: list[np.ndarray]):
    whole = merge_sums([{"n": part} for part in parts])["n"]
    first, rest = merge_sums([{"n": part} for part in parts[:1]]), merge_sums([{"n": part} for part in parts[1:]])
    np.testing.assert_array_equal(whole, np.sum(parts, axis=0))
    np.testing.assert_array_equal(merge_sums([first, rest])["n"], whole)


def test_merging_leaves_the_parts_alone():
    part = {"n": np.ones(2)}
    merge_sums([part, part, part])
    np.testing.assert_array_equal(part["n"], np.ones(2))
    assert merge_sums([part])["n"] is not part["n"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"m": np.ones(2)}, "cannot be merged"),
        ({"n": np.ones(3)}, r"shape \(3,\), expected \(2,\)"),
        ({"n": np.ones((2, 1))}, "shape"),
        ({"n": np.ones(2, dtype=np.int8)}, "dtype int8, expected float64"),
    ],
)
def test_sums_that_do_not_fit_are_refused(other: dict[str, np.ndarray], reason: str):
    with pytest.raises(ValueError, match=reason):
        merge_sums([{"n": np.ones(2)}, other])


def test_truth_values_and_nothing_are_no_sums():
    with pytest.raises(ValueError, match="dtype bool"):
        merge_sums([{"n": np.ones(2, dtype=bool)}])
    with pytest.raises(ValueError, match="merge of no parts"):
        merge_sums([])


def test_a_step_of_a_large_model_takes_the_room_of_its_result() -> None:
    before = Parameters({"w": np.ones((1 << 10, 1 << 11), np.float32)})
    change = np.full(before.size, 0.5)
    tracemalloc.start()
    after = moved(before, change)
    assert after.all_finite()
    assert len(after.digest()) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert float(after["w"].min()) == 1.5
    assert peak < 4 * before.size + (3 * 8 << 18) + (1 << 20)
