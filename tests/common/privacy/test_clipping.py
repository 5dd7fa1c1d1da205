from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.arrays import Parameters
from common.errors import PrivacyError
from common.privacy.clipping import clip_parameters, clip_vector, finite_norm

NORMS = st.floats(1e-6, 1e6)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5)
ARRAYS = st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(dtype, SHAPES, elements={"allow_nan": False, "allow_infinity": False})
)
PARAMETERS = st.dictionaries(st.text(max_size=3), ARRAYS, max_size=4).map(Parameters)


@given(PARAMETERS, st.floats(1e-3, 1e3))
def test_the_bound_holds_for_the_values_as_they_leave(parameters: Parameters, bound: float):
    clipped = clip_parameters(parameters, clipping_norm=bound)
    assert finite_norm(clipped.flatten()) <= bound
    assert clipped.layout == parameters.layout


@given(PARAMETERS)
def test_what_is_short_enough_and_zeros_come_back_bit_for_bit(parameters: Parameters):
    bound = max(finite_norm(parameters.flatten()), 1e-300)
    if math.isfinite(bound):
        assert clip_parameters(parameters, clipping_norm=bound).digest() == parameters.digest()
    zeros = parameters.unflatten(np.zeros(parameters.size))
    assert clip_parameters(zeros, clipping_norm=1.0).digest() == zeros.digest()


@given(hnp.arrays(np.float64, 6, elements=st.floats(-1e3, 1e3)), NORMS)
def test_clipping_keeps_the_direction_and_twice_is_once(vector: np.ndarray, bound: float):
    clipped = clip_vector(vector, clipping_norm=bound)
    np.testing.assert_array_equal(clip_vector(clipped, clipping_norm=bound), clipped)
    if finite_norm(vector) > 1e-100:
        expected = vector * min(1.0, bound / finite_norm(vector))
        np.testing.assert_allclose(clipped, expected, rtol=1e-12, atol=1e-300)


def test_an_array_without_axes_counts_and_is_scaled_like_the_others():
    clipped = clip_parameters(Parameters({"scalar": np.array(3.0), "vector": np.array([4.0])}), clipping_norm=1.0)
    assert clipped["scalar"].shape == ()
    assert float(clipped["scalar"]) == pytest.approx(0.6)


def test_the_largest_numbers_have_a_norm_too():
    np.testing.assert_allclose(clip_vector(np.full(4, 1e308), clipping_norm=2.0), np.ones(4))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_counted(value: float):
    with pytest.raises(PrivacyError, match="1 of 3 values are not finite"):
        clip_parameters(Parameters({"w": np.array([1.0, value, 0.0])}), clipping_norm=1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_clipping_norm_is_positive_and_finite(bound: float):
    with pytest.raises(PrivacyError, match="clipping norm"):
        clip_vector(np.ones(2), clipping_norm=bound)
