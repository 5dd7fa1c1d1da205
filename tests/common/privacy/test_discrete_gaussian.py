import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from common.errors import PrivacyError
from common.privacy.discrete_gaussian import (
    LARGEST_VARIANCE,
    NoiseShare,
    Shares,
    bernoulli_exp,
    discrete_gaussian,
    distributed_cost,
    distributed_noise,
)
from common.rng import SystemNoise

SOURCE = SystemNoise(bytes(32))


def pmf(variance: float, reach: int) -> np.ndarray:
    y = np.arange(-reach, reach + 1)
    weight = np.exp(-(y**2) / (2 * variance))
    return weight / weight.sum()


@pytest.mark.parametrize("variance", [1, 3, 40])
def test_frequencies_are_those_of_the_exact_distribution(variance):
    n, reach = 200_000, 4 * math.isqrt(variance) + 4
    drawn = discrete_gaussian(n, variance=variance, source=SOURCE)
    expected = pmf(variance, 10 * reach)[9 * reach : 11 * reach + 1]
    seen = np.array([(drawn == y).sum() for y in range(-reach, reach + 1)])
    large = expected * n >= 20
    observed = np.append(seen[large], n - seen[large].sum())
    wanted = np.append(expected[large], 1 - expected[large].sum()) * n
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert stats.chi2.sf(statistic, len(observed) - 1) > 1e-4


def test_a_wide_one_has_the_moments_of_a_gaussian():
    sigma = 3_000_000
    drawn = discrete_gaussian(50_000, variance=sigma**2, source=SOURCE) / sigma
    assert abs(drawn.mean()) < 4 / math.sqrt(50_000)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / 50_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4


def test_the_exact_comparison_decides_as_the_probability_says():
    """With everything called close, all draws go the exact way: the frequency is still the probability."""
    for exponent in (Fraction(1, 7), Fraction(3, 2), Fraction(0)):
        n = 4_000
        drawn = bernoulli_exp(np.full(n, float(exponent)), lambda _, e=exponent: e, SOURCE, close=2.0)
        p = math.exp(-exponent)
        assert abs(drawn.mean() - p) <= 4.5 * math.sqrt(p * (1 - p) / n)


def test_both_ways_of_comparing_agree():
    exponent = np.linspace(0.01, 5, 500)
    fast = bernoulli_exp(exponent, Fraction, SystemNoise(bytes(32)), close=0.0)
    exact = bernoulli_exp(exponent, lambda i: Fraction(float(exponent[i])), SystemNoise(bytes(32)), close=2.0)
    assert (fast == exact).all()


def test_a_comparison_that_stays_open_asks_for_further_bits():
    """The uniform number begins with the bits of exp(-1): 53 bits cannot decide, 106 do."""

    class Scripted:
        def __init__(self, words):
            self.words = list(words)

        def uniform(self, n):
            return np.array([self.words.pop(0) for _ in range(n)])

        def normal(self, n):
            raise NotImplementedError

    start = int(Decimal(-1).exp() * 2**53) / 2**53
    for next_word, below in ((0.0, True), (1 - 2.0**-53, False)):
        source = Scripted([start, next_word])
        assert bernoulli_exp(np.ones(1), lambda _: Fraction(1), source, close=2.0**-45)[0] == below
        assert not source.words


@pytest.mark.parametrize("variance", [0, LARGEST_VARIANCE + 1])
def test_a_variance_out_of_range_is_refused(variance):
    with pytest.raises(PrivacyError, match="variance"):
        discrete_gaussian(1, variance=variance, source=SOURCE)


def test_noise_of_a_study_differs_from_draw_to_draw():
    first, second = (discrete_gaussian(100, variance=10**6, source=SystemNoise()) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize(("n_sites", "tolerated", "dropped"), [(5, 0, 0), (5, 2, 2), (5, 2, 0)])
@pytest.mark.parametrize("shift", [0, 3])
def test_the_sum_of_the_shares_has_the_promised_variance_without_those_who_may_drop_out(
    n_sites, tolerated, dropped, shift
):
    n, variance, shares = 40_000, 900, Shares(n_sites, tolerated)
    values = np.arange(n, dtype=np.int64) - n // 2
    share = NoiseShare(shift, shares.variance(variance))
    present = n_sites - dropped
    parts = [share.add(values, SOURCE) for _ in range(present)]
    assert all((part % 2**shift == 0).all() for part in parts)
    noise = (sum(parts) - present * values) / 2**shift
    expected = variance * present / (n_sites - tolerated)
    assert abs(noise.mean()) < 0.51 * present  # of rounding to multiples
    assert abs(noise.var() / expected - 1) < 5 * math.sqrt(2 / n) + 0.01
    assert noise.var() > variance * (1 - 5 * math.sqrt(2 / n))


def test_noise_of_a_norm_covers_rounding_and_its_cost_is_the_asked_one():
    for step in (1e-6, 1e-9, 1e-13):
        found = distributed_noise(noise_multiplier=1.3, clipping_norm=0.5, step=step, size=10_000, shares=Shares(6, 2))
        std = math.sqrt(found.share.variance * 4) * step * 2**found.share.shift
        assert 1.3 * 0.5 <= std < 1.3 * 0.5 * 1.01
        assert found.cost.mechanism == "gaussian"
        assert found.cost.noise_multiplier == pytest.approx(1.3, rel=1e-6)
    with pytest.raises(PrivacyError, match="too coarse"):
        distributed_noise(noise_multiplier=1.3, clipping_norm=0.5, step=1.0, size=1, shares=Shares(6, 2))


def test_shares_that_nobody_adds_are_refused():
    with pytest.raises(PrivacyError, match="cannot be done without"):
        Shares(3, 3)


def renyi(p: np.ndarray, shift: int, order: float) -> float:
    """Renyi divergence of a distribution on integers from itself moved by ``shift``."""
    moved, kept = p[:-shift], p[shift:]
    usable = (moved > 0) & (kept > 0)
    return math.log((kept[usable] ** order * moved[usable] ** (1 - order)).sum()) / (order - 1)


@pytest.mark.parametrize(("own", "n_sites"), [(1, 2), (1, 5), (2, 3), (9, 10)])
@pytest.mark.parametrize("shift", [1, 3])
def test_the_stated_cost_is_at_least_the_true_divergence_of_a_sum_of_shares(own, n_sites, shift):
    """The exact distribution of the sum by convolution, in extended precision."""
    reach = 12 * math.isqrt(own * n_sites) + 20
    one = pmf(own, reach).astype(np.longdouble)
    total = one
    for _ in range(n_sites - 1):
        total = np.convolve(total, one)
    total = np.where(total > 1e-250, total, 0)
    event = distributed_cost(size=1, sensitivity=shift, variance=own * n_sites, shares=Shares(n_sites))
    for order in (1.5, 2.0, 4.0):
        assert renyi(total, shift, order) <= order / (2 * event.noise_multiplier**2) * (1 + 1e-6)


@pytest.mark.parametrize("noise_multiplier", [0.7, 1.5, 4.0])
def test_on_a_fine_grid_the_cost_is_that_of_one_gaussian(noise_multiplier):
    sensitivity = 10_000
    variance = round((noise_multiplier * sensitivity) ** 2)
    event = distributed_cost(size=10**6, sensitivity=sensitivity, variance=variance, shares=Shares(20))
    assert event.noise_multiplier == pytest.approx(noise_multiplier, rel=1e-6)


def test_the_cost_equals_dp_accounting_within_a_percent():
    """Against the accountant's own Gaussian of the same width; and never below the integrated privacy loss of the
    discrete Gaussian, the oracle that knows the distribution itself."""
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    dp_event = pytest.importorskip("dp_accounting").dp_event
    rdp = pytest.importorskip("dp_accounting.rdp")
    sensitivity, sigma, steps, delta = 20, 40.0, 30, 1e-6
    event = distributed_cost(size=1, sensitivity=sensitivity, variance=int(sigma**2), shares=Shares(4))

    def epsilon(noise_multiplier):
        accountant = rdp.RdpAccountant().compose(dp_event.GaussianDpEvent(noise_multiplier), steps)
        return accountant.get_epsilon(delta)

    assert epsilon(event.noise_multiplier) == pytest.approx(epsilon(sigma / sensitivity), rel=0.01)
    loss = pld.from_discrete_gaussian_mechanism(sigma, sensitivity=sensitivity, truncation_bound=1_000)
    assert loss.self_compose(steps).get_epsilon_for_delta(delta) <= epsilon(event.noise_multiplier)
