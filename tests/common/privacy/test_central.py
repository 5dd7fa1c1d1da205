"""Site-level privacy: the mean is the mean, one site moves the sum by the norm at most, noise is as wide as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import Parameters
from common.errors import FederationError, PrivacyError
from common.messages import LocalUpdate
from common.privacy.central import AdaptiveNorm, SiteLevel, noise_to_signal, noisy_mean, protected
from common.privacy.ledger import epsilon, gaussian
from common.rng import SystemNoise

START = Parameters({"w": np.zeros((3, 2), dtype=np.float32), "scale": np.array(0.0, dtype=np.float32)})
SOURCE = SystemNoise(bytes(32))
QUIET = SiteLevel(1e-9)


def update(values, n_cases: int = 40) -> LocalUpdate:
    vector = np.broadcast_to(np.asarray(values, dtype=np.float64), (7,))
    return LocalUpdate("linear", 2, n_cases, START.unflatten(vector), 0.7)


def mean_of(updates, *, level=QUIET, norm=1.0, n_sites=None):
    sites = len(updates) if n_sites is None else n_sites
    return noisy_mean(updates, START, level=level, clipping_norm=norm, n_sites=sites, source=SOURCE)


def test_without_noise_to_speak_of_small_updates_have_their_plain_mean():
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.1, (4, 7))
    found = mean_of([update(v, n_cases=10 * (i + 1)) for i, v in enumerate(vectors)]).update
    np.testing.assert_allclose(found.delta.flatten(), vectors.mean(axis=0), atol=1e-6)
    assert (found.model, found.round_number, found.n_cases, found.train_loss) == ("linear", 2, 1, 0.0)
    assert found.delta.layout == START.layout


@given(
    others=st.lists(st.floats(-3, 3), min_size=1, max_size=3),
    one=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=7, max_size=7),
)
def test_whatever_one_site_sends_the_sum_moves_by_at_most_the_norm(others: list[float], one: list[float]):
    """Against its update replaced by zeros: the adjacency that the cost is stated for."""
    rest = [update(value) for value in others]
    with_it = mean_of([*rest, update(one)]).update.delta.flatten()
    zeroed = mean_of([*rest, update(0.0)]).update.delta.flatten()
    assert np.linalg.norm(with_it - zeroed) * (len(rest) + 1) <= 1 + 1e-5


def test_the_site_sends_no_loss_no_number_of_cases_and_nothing_longer_than_the_norm():
    sent = protected(update(5.0), clipping_norm=0.25)
    assert (sent.n_cases, sent.train_loss) == (1, 0.0)
    assert 0.2499 < sent.delta.norm() <= 0.25
    assert protected(update(0.0), clipping_norm=0.25).delta.norm() == 0


def test_both_halves_scale_alike():
    sent = [protected(update(v), clipping_norm=0.5) for v in (5.0, -0.1, 0.3)]
    raw = [update(v) for v in (5.0, -0.1, 0.3)]
    np.testing.assert_allclose(
        mean_of(sent, norm=0.5).update.delta.flatten(), mean_of(raw, norm=0.5).update.delta.flatten(), atol=1e-6
    )


def test_noise_of_the_mean_is_the_multiplier_times_the_norm_over_the_sites():
    level = SiteLevel(1.5)
    draws = np.array(
        [mean_of([update(0.0)] * 4, level=level, norm=2.0).update.delta.flatten() for _ in range(1_500)]
    ).ravel()
    assert draws.std() == pytest.approx(1.5 * 2.0 / 4, rel=0.03)
    assert abs(draws.mean()) < 5 * 0.75 / math.sqrt(draws.size)


def test_zero_updates_of_an_empty_model_stay_finite():
    empty = Parameters({})
    nothing = LocalUpdate("linear", 1, 1, empty, 0.0)
    found = noisy_mean([nothing], empty, level=QUIET, clipping_norm=1.0, n_sites=1, source=SOURCE)
    assert found.update.delta.size == 0
    assert mean_of([update(0.0)] * 3).update.delta.all_finite()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_on_both_sides(bad: float):
    faulty = update([bad, 0, 0, 0, 0, 0, 0])
    with pytest.raises(PrivacyError, match="not finite"):
        protected(faulty, clipping_norm=1.0)
    with pytest.raises(PrivacyError, match="not finite"):
        mean_of([update(0.0), faulty])


@pytest.mark.parametrize("n_sites", [1, 3])
def test_fewer_or_more_than_all_sites_are_refused(n_sites: int):
    with pytest.raises(FederationError, match=f"2 of {n_sites} came"):
        mean_of([update(0.0)] * 2, n_sites=n_sites)
    with pytest.raises(FederationError, match="0 of 2 came"):
        mean_of([], n_sites=2)


def test_a_round_costs_its_noise_multiplier():
    (event,) = SiteLevel(1.2).cost()
    assert (event.mechanism, event.noise_multiplier, event.sampling_rate, event.steps) == ("gaussian", 1.2, 1.0, 1)


def test_an_adaptive_round_costs_the_same_in_two_parts():
    level = SiteLevel(1.2, AdaptiveNorm(0.5, 0.2, 0.1))
    assert epsilon(level.cost() * 20, 1e-5) == pytest.approx(epsilon([gaussian(1.2)] * 20, 1e-5), rel=1e-9)
    assert level.of_the_sum > 1.2
    # Andrew et al. 2021, theorem 1, with 1 in place of 1/2: an update of zeros still counts as one below the norm
    assert level.of_the_sum == pytest.approx((1.2**-2 - level.std_of_the_count**-2) ** -0.5)


def test_a_clipped_update_in_place_of_zeros_moves_sum_and_count_by_what_was_paid():
    """Both shifts, in units of their noise, together: the inverse of the round's noise multiplier."""
    quiet = SiteLevel(1e-9, AdaptiveNorm(0.5, 0.2, 0.1))
    others = [update(np.full(7, 0.01)) for _ in range(4)]
    moved = []
    for last in (np.zeros(7), np.full(7, 5.0)):
        found = mean_of([*others, protected(update(last), clipping_norm=1.0)], level=quiet, norm=1.0)
        counted = 0.5 - math.log(found.next_norm) / 0.2  # the share of updates below the norm
        moved.append((5 * found.update.delta.flatten(), 5 * counted))
    (zeros, below), (clipped, above) = moved
    level = SiteLevel(1.6, AdaptiveNorm(0.5, 0.2, 0.1))
    of_sum, of_count = np.linalg.norm(clipped - zeros) / level.of_the_sum, (below - above) / level.std_of_the_count
    assert math.hypot(of_sum, of_count) == pytest.approx(1 / 1.6, rel=1e-3)


def test_the_cost_of_a_schedule_equals_dp_accounting():
    rdp = pytest.importorskip("dp_accounting.rdp")
    dp_event = pytest.importorskip("dp_accounting").dp_event
    level = SiteLevel(2.5, AdaptiveNorm(0.5, 0.2, 0.2))
    accountant = rdp.RdpAccountant()
    for _ in range(30):
        accountant.compose(dp_event.GaussianDpEvent(level.of_the_sum))
        accountant.compose(dp_event.GaussianDpEvent(level.std_of_the_count))
    assert epsilon(level.cost() * 30, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


def test_the_norm_moves_to_the_quantile_of_the_updates():
    """Sites with updates of lengths 1 to 5: the norm settles between the second and the fourth."""
    level = SiteLevel(1e-6, AdaptiveNorm(0.5, 0.2, 0.1))
    direction = np.full(7, 1 / math.sqrt(7))
    for start in (0.05, 60.0):
        norm = start
        for _ in range(60):
            sent = [protected(update(length * direction), clipping_norm=norm) for length in (1, 2, 3, 4, 5)]
            norm = mean_of(sent, level=level, norm=norm).next_norm
        assert 2.5 < norm < 3.6


def test_noise_on_the_count_cannot_throw_the_norm_about():
    adaptive = AdaptiveNorm(0.5, 0.2, 0.1)
    assert adaptive.moved(1.0, 1e9) == pytest.approx(math.exp(-0.1))
    assert adaptive.moved(1.0, -1e9) == pytest.approx(math.exp(0.1))


def test_noise_to_signal_of_few_hospitals():
    ratio = noise_to_signal(noise_multiplier=1.0, n_values=10_000, n_sites=5)
    assert ratio == 20
    draws = [
        np.linalg.norm(mean_of([update(0.0)] * 5, level=SiteLevel(1.0)).update.delta.flatten()) for _ in range(200)
    ]
    expected = noise_to_signal(noise_multiplier=1.0, n_values=7, n_sites=5)
    assert np.sqrt(np.mean(np.square(draws))) == pytest.approx(expected, rel=0.1)
