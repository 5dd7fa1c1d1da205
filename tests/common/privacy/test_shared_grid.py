"""Laws of the grid that all sites share: sums are exact and never wrap, nothing is lost, no update is too long."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.arrays import Parameters
from common.errors import MessageError, PrivacyError
from common.messages import LocalUpdate, Train
from common.privacy.contribution import SumPlan, from_words, require_layout, to_words
from common.privacy.discrete_gaussian import Shares
from common.privacy.mask_keys import MaskWords
from common.privacy.shared_grid import (
    HEADROOM,
    LEAST_LEVELS,
    MOST_SITES,
    ROOM,
    SharedGrid,
    next_bounds,
    private_grid,
    round_within,
    sensitivity_after_rounding,
    words_of,
)
from common.rng import generator

N_SITES = st.integers(1, MOST_SITES)
PLAN = SumPlan(3, 32, 4.0, 100, "n_cases")


def grid(n_sites: int = 3, bounds: tuple[float, ...] = (0.5, 2.0)) -> SharedGrid:
    return SharedGrid(n_sites, (40, 3), bounds)


def sent(values: np.ndarray, n_cases: int = 10) -> LocalUpdate:
    data, _ = grid().send(values, None, generator(1, "draws", n_cases))
    return LocalUpdate("m", 2, n_cases, Parameters({}), 0.25, compressed=(data,))


def question(bounds: tuple[float, ...] = (0.5, 2.0)) -> Train:
    return Train("d", 0, "m", 2, Parameters({"w": np.zeros(40), "b": np.zeros(3)}), value_bounds=bounds)


@given(N_SITES)
def test_no_sum_of_all_sites_can_wrap_around_and_each_has_eight_bits(n_sites):
    """The proof of the headroom, and the largest words that a site can send, from values however large."""
    levels = SharedGrid(n_sites, (2,), (1.0,)).levels
    assert levels >= LEAST_LEVELS
    assert n_sites * levels <= ROOM
    words = SharedGrid(n_sites, (2,), (1.0,)).encode(np.array([1e30, -1e30]), generator(0, "g"))
    assert np.abs(words.view(np.int16).astype(int)).max() <= levels


@given(st.integers(1, MOST_SITES), st.integers(0, 10**6))
def test_the_sum_of_masked_words_is_the_sum_of_rounded_values_exactly(n_sites, seed):
    rng = generator(seed, "sum")
    of = SharedGrid(n_sites, (5, 4), (0.25, 3.0))
    words = [of.encode(rng.normal(0, 1, 9), rng) for _ in range(n_sites)]
    masks = rng.integers(0, 2**16, (n_sites, 9), dtype=np.uint16)
    masked = np.zeros(9, np.uint16)
    for i, word in enumerate(words):  # each mask is added by one site and taken off by the next
        masked += word + masks[i] - masks[i - 1]
    whole = np.sum([word.view(np.int16).astype(int) for word in words], axis=0)
    assert np.array_equal(masked.view(np.int16), whole)
    assert np.array_equal(of.decode(masked), whole * of.steps)


def test_the_expected_code_of_a_value_is_the_value():
    n, value = 200_000, 0.3217
    of = SharedGrid(100, (n,), (1.0,))
    decoded = of.decode(of.encode(np.full(n, value), generator(2, "unbiased")))
    step = of.steps[0]
    assert set(np.round(decoded / step).astype(int)) == {math.floor(value / step), math.ceil(value / step)}
    assert abs(decoded.mean() - value) < 5 * step / 2 / math.sqrt(n)


@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0.01, 10))
@settings(max_examples=50)
def test_codes_and_what_is_left_add_up_to_all_deltas_also_beyond_the_bound(seed, rounds, size):
    rng = generator(seed, "feedback")
    of, residual = SharedGrid(10, (6, 2), (0.5, 0.0)), None
    total, received = np.zeros(8), np.zeros(8)
    for _ in range(rounds):
        delta = rng.normal(0, size, 8)
        data, residual = of.send(delta, residual, rng)
        total += delta
        received += of.decode(words_of(data, size=8))
    assert residual is not None
    np.testing.assert_allclose(received + residual, total, atol=1e-5 * size * rounds)
    assert not received[6:].any()  # a bound of 0: all of it waits


def test_what_is_left_is_less_than_a_step_within_the_bound_and_comes_later_beyond_it():
    of = SharedGrid(3, (2,), (1.0,))
    _, residual = of.send(np.array([0.4, 2.5]), None, generator(0, "g"))
    assert abs(residual[0]) < of.steps[0]
    assert residual[1] == pytest.approx(1.5)
    data, residual = of.send(np.zeros(2), residual, generator(1, "g"))
    assert of.decode(words_of(data, size=2))[1] == pytest.approx(1.0)
    assert residual[1] == pytest.approx(0.5)


def test_words_become_the_weighted_mean_of_what_the_sites_rounded_to():
    rng = generator(3, "values")
    values = [np.concatenate([rng.uniform(-0.5, 0.5, 40), rng.uniform(-2, 2, 3)]) for _ in range(3)]
    updates = [sent(v, n) for v, n in zip(values, (10, 20, 30), strict=True)]
    made = [to_words(update, PLAN) for update in updates]
    total = MaskWords(made[0][1].wide.copy(), made[0][1].narrow.copy())
    for _, words in made[1:]:
        total.add(words)
    assert total.narrow.dtype == np.uint16
    mean = from_words(question(), made[0][0], total, PLAN, n_included=3, grid=grid())
    assert isinstance(mean, LocalUpdate)
    rounded = np.sum([grid().decode(words_of(u.compressed[0], size=43)) for u in updates], axis=0)
    np.testing.assert_allclose(mean.delta.flatten(), rounded / 60, rtol=1e-14)
    assert np.abs(rounded - np.sum(values, axis=0)).max() < 3 * grid().steps.max()
    assert (mean.n_cases, mean.train_loss) == (60, pytest.approx(0.25))


def test_words_of_another_width_than_asked_are_refused():
    layout, words = to_words(sent(np.zeros(43)), PLAN)
    wide = MaskWords(words.wide, words.narrow.astype(np.uint32))
    with pytest.raises(MessageError, match="uint32 in place"):
        require_layout(question(), layout, wide, PLAN, grid=grid())
    with pytest.raises(MessageError, match="uint16 in place"):
        require_layout(question(()), layout, words, PLAN)
    with pytest.raises(PrivacyError, match="other dtypes"):
        words.add(wide)


def test_values_that_are_not_finite_and_codes_of_another_size_are_refused():
    with pytest.raises(PrivacyError, match="not finite"):
        grid().encode(np.full(43, np.nan), generator(0, "g"))
    with pytest.raises(PrivacyError, match="shape"):
        grid().encode(np.zeros(42), generator(0, "g"))
    with pytest.raises(PrivacyError, match="octets"):
        words_of(np.zeros(85, np.uint8), size=43)
    with pytest.raises(PrivacyError, match="258"):
        grid(n_sites=259)
    with pytest.raises(PrivacyError, match="bounds"):
        grid(bounds=(1.0,))


def test_bounds_follow_the_sum_halve_at_most_and_none_is_nothing():
    first = next_bounds([0.1, 0.0], (), weight=100, n_sites=4)
    assert first == (HEADROOM * 100 * 0.1 / 2, HEADROOM * 5 / 1024)
    assert next_bounds([0.001, 0.0], first, weight=100, n_sites=4) == (first[0] / 2, first[1] / 2)
    assert next_bounds([10.0, 0.0], first, weight=100, n_sites=4)[0] == 100 * first[0]
    assert next_bounds([0.0, 0.0], first, weight=100, n_sites=4) == ()


@pytest.mark.parametrize("n_sites", [3, 10, 100])
def test_bounds_that_are_too_small_grow_until_nothing_waits(n_sites):
    """All sites move one way, a thousand times further than the first bound says: nothing is lost on the way."""
    rng = generator(4, "growth", n_sites)
    bounds: tuple[float, ...] = (0.001,)
    residuals: list = [None] * n_sites
    received = 0.0
    for _ in range(30):
        of = SharedGrid(n_sites, (1,), bounds)
        coded = [of.send(np.array([1.0]), residual, rng) for residual in residuals]
        residuals = [residual for _, residual in coded]
        total = float(np.sum([of.decode(words_of(data, size=1)) for data, _ in coded]))
        received += total
        bounds = next_bounds([total / n_sites], bounds, weight=n_sites, n_sites=n_sites)
    assert received == pytest.approx(30 * n_sites, rel=0.01)


@given(st.integers(1, 400), st.floats(0.5, 2000), st.integers(0, 10**6))
@settings(max_examples=60)
def test_a_rounded_update_is_never_longer_than_its_sensitivity(size, norm, seed):
    rng = generator(seed, "norm")
    values = rng.normal(size=size)
    values *= norm / np.linalg.norm(values)
    rounded = round_within(values, norm=norm, generator=rng)
    assert np.linalg.norm(rounded) <= sensitivity_after_rounding(norm, size)
    assert np.abs(rounded - values).max() < 1


def test_the_sensitivity_is_the_smaller_of_both_bounds():
    assert sensitivity_after_rounding(1.0, 1) == pytest.approx(math.sqrt(1 + 0.25 + 1 + 0.5))
    assert sensitivity_after_rounding(0.1, 4) == pytest.approx(math.sqrt(0.01 + 1 + 0.1 + 1))
    assert sensitivity_after_rounding(8000, 10**6) == pytest.approx(8000 * 1.0021, rel=1e-3)  # 0.2 % more noise


@pytest.mark.parametrize(("n_sites", "tolerated", "noise", "size"), [(4, 1, 1.0, 50_000), (10, 3, 5.0, 1000)])
def test_private_updates_and_noise_fit_the_words_at_the_asked_cost(n_sites, tolerated, noise, size):
    made = private_grid(
        n_sites=n_sites, size=size, clipping_norm=0.5, noise_multiplier=noise, shares=Shares(n_sites, tolerated)
    )
    assert made.noise.cost.noise_multiplier == pytest.approx(noise, rel=1e-6)
    step = made.grid.steps[0]
    assert made.norm * step == pytest.approx(0.5)
    std = math.sqrt(made.noise.share.variance * (n_sites - tolerated)) * step
    assert noise * 0.5 <= std < noise * 0.5 * 1.25  # what rounding adds to the sensitivity
    rng = generator(5, "private")
    data = made.send(rng.normal(0, 10, size), rng)  # far beyond the norm: cut to it
    rounded = words_of(data, size=size).view(np.int16).astype(int)
    assert np.linalg.norm(rounded) <= sensitivity_after_rounding(made.norm, size)
    update = LocalUpdate("m", 1, 1, Parameters({}), 0.0, compressed=(data,))
    plan = SumPlan(n_sites, 32, 4.0, 100, "uniform")
    _, words = to_words(update, plan, share=made.noise.share)
    noisy = words.narrow.view(np.int16).astype(int)
    assert np.abs(noisy).max() <= made.grid.levels
    assert (noisy - rounded).std() == pytest.approx(math.sqrt(made.noise.share.variance), rel=0.1)


def test_noise_that_16_bits_do_not_hold_is_refused_with_what_to_do():
    with pytest.raises(PrivacyError, match="no room for noise of 1e\\+04"):
        private_grid(n_sites=200, size=10, clipping_norm=1.0, noise_multiplier=1e4, shares=Shares(200, 0))
