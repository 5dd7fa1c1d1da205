from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.arrays import Parameters
from common.errors import PrivacyError
from common.privacy.gaussian import (
    GRID_BITS,
    grid_of,
    inflated,
    parameters_with_noise,
    standard_normals,
    with_noise,
)
from common.rng import SystemNoise

KEY = bytes(range(32))


class Fixed:
    """Draws that are given, one block after the other."""

    def __init__(self, *values: float) -> None:
        self._values = np.array(values)

    def uniform(self, n: int) -> np.ndarray:
        assert n == len(self._values)
        return self._values

    def normal(self, n: int) -> np.ndarray:
        raise NotImplementedError


def test_the_noise_is_normal():
    drawn = standard_normals(200_001, SystemNoise(KEY))
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert (
        stats.kstest(
            drawn[:100_000] * drawn[100_000:200_000], stats.norm.rvs(size=(2, 100_000), random_state=1).prod(axis=0)
        ).pvalue
        > 1e-3
    )


@given(st.floats(1e-30, 1e30))
def test_the_grid_is_a_power_of_two_far_below_the_noise(std: float):
    grid = grid_of(std)
    assert math.frexp(grid)[0] == 0.5
    assert std * 2.0 ** -(GRID_BITS + 1) < grid <= std * 2.0**-GRID_BITS


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(1e-3, 10))
def test_outputs_that_are_possible_do_not_depend_on_the_value(one: float, other: float, std: float):
    """Mironov's attack asks which floating-point sums can occur: all lie on one grid, and differ by whole steps."""
    outputs = np.concatenate(
        [with_noise(np.full(50, value), std=std, source=SystemNoise(KEY)) for value in (one, other)]
    )
    steps = outputs / grid_of(std)
    np.testing.assert_array_equal(steps, np.rint(steps))
    noise_of = [
        part - np.trunc(value / grid_of(std)) for part, value in zip(np.split(steps, 2), (one, other), strict=True)
    ]
    np.testing.assert_array_equal(*noise_of)


def test_a_naive_sum_would_show_what_was_noised():
    """The control of the test above: among sums in floating point there are some that only one value can give."""
    noise = standard_normals(1000, SystemNoise(KEY))
    assert not np.array_equal((1 / 3 + noise) - noise, np.full(1000, 1 / 3))
    sums = 1e3 / 3 + noise
    assert len(set((sums * 2.0**GRID_BITS) % 1)) > 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_rounding_to_the_grid_never_makes_a_norm_larger(values: list[float], std: float):
    grid = grid_of(std)
    rounded = np.trunc(np.array(values) / grid) * grid
    assert np.linalg.norm(rounded) <= np.linalg.norm(values)


def test_the_tail_is_fine_and_has_an_end():
    """Draws of 53 bits end at 8.6 standard deviations; the second draw carries on."""
    at_zero = standard_normals(2, Fixed(0.0, 0.0, 0.0))
    assert 12 < at_zero[0] < 13
    neighbours = [standard_normals(2, Fixed(2.0**-53, k * 2.0**-10, 0.0))[0] for k in range(4)]
    assert 8 < min(neighbours) < max(neighbours) < 9
    assert len(set(neighbours)) == 4


def test_noise_has_the_standard_deviation_asked_for_and_reaches_arrays_without_axes():
    parameters = Parameters({"scalar": np.array(2.0, np.float32), "zeros": np.zeros((200, 100), np.float32)})
    noised = parameters_with_noise(parameters, std=0.5, source=SystemNoise(KEY))
    assert noised.layout == parameters.layout
    assert float(noised["scalar"]) != 2.0
    assert noised["zeros"].std() == pytest.approx(0.5, rel=0.02)
    assert abs(noised["zeros"].mean()) < 0.02


def test_an_empty_vector_takes_no_noise():
    assert with_noise(np.zeros(0), std=1.0, source=SystemNoise(KEY)).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_value_that_the_grid_cannot_hold_is_refused(value: float):
    with pytest.raises(PrivacyError, match="cannot be given noise"):
        with_noise(np.array([0.0, value]), std=1e-3, source=SystemNoise(KEY))


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_no_noise_is_no_privacy(std: float):
    with pytest.raises(PrivacyError, match="standard deviation"):
        with_noise(np.zeros(2), std=std, source=SystemNoise(KEY))


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 10**7))
def test_inflated_noise_covers_the_rounding(std: float, sensitivity: float, n: int):
    larger = inflated(std, sensitivity=sensitivity, n_values=n)
    worst = sensitivity + math.sqrt(n) * grid_of(larger)
    if larger < 2 * std:
        assert larger / worst >= std / sensitivity * (1 - 1e-12)
