import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import PrivacyError
from common.privacy.fixed_point import (
    LIMBS,
    MAX_SITES,
    Grid,
    decode_counts,
    decode_limbs,
    encode_counts,
    encode_limbs,
)
from common.rng import SystemNoise

DOUBLES = st.floats(-(2.0**130), 2.0**130)
SITES = st.integers(1, 2000)
BOUNDS = st.floats(1e-6, 1e6)
BITS = st.sampled_from([32, 64])


@given(SITES, BOUNDS, BITS)
def test_headroom_the_largest_sum_does_not_wrap_and_a_finer_grid_could(n_sites, bound, bits):
    grid = Grid.for_sum(n_sites=n_sites, bound=bound, bits=bits)
    most = n_sites * (Fraction(bound) * Fraction(2) ** grid.fraction_bits + 1)
    assert most <= 2 ** (bits - 1) - 1
    assert n_sites * (Fraction(bound) * Fraction(2) ** (grid.fraction_bits + 1) + 1) > 2 ** (bits - 1) - 1


@given(SITES, BOUNDS, BITS, st.booleans())
def test_at_the_bound_the_sum_is_right_to_the_last_word(n_sites, bound, bits, stochastic):
    grid = Grid.for_sum(n_sites=n_sites, bound=bound, bits=bits)
    source = SystemNoise(bytes(32)) if stochastic else None
    words = grid.encode(np.array([bound, -bound]), source=source)
    total = words * words.dtype.type(n_sites)
    exact = np.array([bound, -bound]) * n_sites
    np.testing.assert_allclose(grid.decode(total), exact, atol=n_sites * grid.step, rtol=1e-12)


@given(hnp.arrays(np.float64, (4, 7), elements=st.floats(-4, 4)), BITS)
def test_sum_of_words_is_the_sum_of_rounded_values(values, bits):
    grid = Grid.for_sum(n_sites=4, bound=4.0, bits=bits)
    words = [grid.encode(row) for row in values]
    total = np.sum(words, axis=0, dtype=words[0].dtype)
    rounded = np.rint(np.ldexp(values, grid.fraction_bits)).astype(np.int64).sum(axis=0)
    assert np.array_equal(total.view(np.int32 if bits == 32 else np.int64), rounded)
    assert np.abs(grid.decode(total) - values.sum(axis=0)).max() <= 4 * grid.step / 2 + 1e-12


def test_stochastic_rounding_is_unbiased():
    grid = Grid.for_sum(n_sites=1, bound=2.0**26, bits=32)
    assert grid.step == 2.0**-4
    values = np.full(40_000, 0.02)  # a third of a step
    words = grid.encode(values, source=SystemNoise(bytes(32)))
    assert set(np.unique(grid.decode(words))) == {0.0, grid.step}
    assert abs(grid.decode(words).mean() - 0.02) < 4 * grid.step / 2 / math.sqrt(values.size)
    assert not grid.encode(values).any()


@pytest.mark.parametrize("value", [4.001, -4.001, math.inf, math.nan])
def test_a_value_beyond_the_bound_is_refused_and_not_cut_off(value):
    grid = Grid.for_sum(n_sites=10, bound=4.0, bits=32)
    with pytest.raises(PrivacyError, match="1 of 3 values lie outside the bound 4 "):
        grid.encode(np.array([0.0, value, 1.0]))


@pytest.mark.parametrize(("n_sites", "bound"), [(2**31, 1.0), (1, math.inf), (1, 0.0)])
def test_no_room(n_sites, bound):
    with pytest.raises(ValueError, match="no room"):
        Grid.for_sum(n_sites=n_sites, bound=bound, bits=32)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=DOUBLES))
def test_limbs_add_up_like_exact_fractions(values):
    total = np.sum([encode_limbs(row) for row in values], axis=0, dtype=np.uint64)
    grain = Fraction(2) ** -120
    for found, column in zip(decode_limbs(total), values.T, strict=True):
        exact = sum(round(Fraction(value) / grain) for value in column.tolist()) * grain
        assert abs(Fraction(float(found)) - exact) <= abs(exact) * Fraction(2) ** -52


@given(hnp.arrays(np.float64, 9, elements=st.floats(2.0**-67, 2.0**138) | st.just(0.0)), st.sampled_from([-1.0, 1.0]))
def test_a_double_comes_back_to_the_last_bit(values, sign):
    assert np.array_equal(decode_limbs(encode_limbs(sign * values)), sign * values)


def test_cancellation_leaves_what_floats_would_lose():
    parts = [np.array([1e30]), np.array([1.0]), np.array([-1e30])]
    total = np.sum([encode_limbs(part) for part in parts], axis=0, dtype=np.uint64)
    assert decode_limbs(total) == [1.0]
    assert sum(parts) == [0.0]


def test_as_many_sites_as_there_may_be_fit_into_the_limbs():
    value = np.nextafter(2.0**139, 0)
    words = encode_limbs(np.array([value, -value])) * np.uint64(MAX_SITES)
    assert words.shape == (2 * LIMBS,)
    np.testing.assert_allclose(decode_limbs(words), [MAX_SITES * value, -MAX_SITES * value], rtol=2**-52)


@pytest.mark.parametrize("value", [2.0**139, -math.inf, math.nan])
def test_what_limbs_cannot_hold_is_refused(value):
    with pytest.raises(PrivacyError, match="not finite, or too large"):
        encode_limbs(np.array([1.0, value]))


@given(hnp.arrays(np.int64, (3, 4), elements=st.integers(-(2**60), 2**60)))
def test_counts_add_up(values):
    total = np.sum([encode_counts(row, n_sites=3) for row in values], axis=0, dtype=np.uint64)
    assert np.array_equal(decode_counts(total), values.sum(axis=0))


def test_counts_that_could_wrap_are_refused():
    with pytest.raises(PrivacyError, match="could wrap around"):
        encode_counts(np.array([2**61]), n_sites=3)
