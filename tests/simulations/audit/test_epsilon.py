"""The lower bound on epsilon, on mechanisms whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulations.audit.epsilon import epsilon_lower_bound, gaussian_delta, gaussian_epsilon


def test_epsilon_of_a_gaussian_is_dp_accountings():
    """Golden: dp_accounting 0.6, `get_epsilon_gaussian(sigma=1, delta=1e-5)` = 4.3778."""
    from dp_accounting.pld.common import compute_self_convolve_bounds  # noqa: F401 - the package is there
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

    for sigma in (0.5, 1.0, 3.0):
        loss = GaussianPrivacyLoss(sigma)
        for epsilon in (0.1, 1.0, 4.0):
            assert gaussian_delta(epsilon, 1 / sigma) == pytest.approx(loss.get_delta_for_epsilon(epsilon), rel=1e-9)
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.3778, abs=2e-3)


def test_no_difference_shows_nothing():
    rng = np.random.default_rng(1)
    bound = epsilon_lower_bound(rng.normal(size=500), rng.normal(size=500), delta=1e-5, is_gaussian=True)
    assert bound.epsilon == 0.0
    assert bound.gaussian_epsilon < 0.3


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0, 4.0])
def test_bound_lies_below_and_near_the_truth(mu: float):
    """Scores of a Gaussian mechanism with sensitivity mu in units of the noise, a thousand trials."""
    rng = np.random.default_rng(7)
    truth = gaussian_epsilon(mu, 1e-5)
    bound = epsilon_lower_bound(rng.normal(size=500), mu + rng.normal(size=500), delta=1e-5, is_gaussian=True)
    assert bound.epsilon <= bound.gaussian_epsilon + 1e-9 <= truth
    assert bound.gaussian_epsilon > 0.5 * truth
    assert bound.n_trials == 1000


def test_bound_holds_as_often_as_it_says():
    """With 90 % confidence it exceeds the truth in fewer than 10 % of 400 audits of a Gaussian mechanism."""
    rng = np.random.default_rng(5)
    truth = gaussian_epsilon(1.0, 1e-3)
    exceeded = 0
    for _ in range(400):
        scores = rng.normal(size=(2, 200))
        bound = epsilon_lower_bound(scores[0], 1.0 + scores[1], delta=1e-3, confidence=0.9, is_gaussian=True)
        exceeded += bound.gaussian_epsilon > truth
    assert exceeded <= 40


def test_pure_randomised_response_is_found():
    """Telling the truth with probability 0.9 is ln 9; half of 4,000 trials a side judge."""
    rng = np.random.default_rng(2)
    without, with_canary = (rng.random(4000) > 0.9).astype(float), (rng.random(4000) < 0.9).astype(float)
    bound = epsilon_lower_bound(without, with_canary, delta=0.0)
    assert 0.85 * math.log(9) < bound.epsilon <= math.log(9)


def test_perfect_detection_is_limited_by_the_number_of_trials():
    """All right of 500 judged a side: ln((1 - e) / e) with e = 1 - 0.025^(1/500)."""
    error = 1 - 0.025 ** (1 / 500)
    bound = epsilon_lower_bound(np.zeros(1000), np.ones(1000), delta=0.0)
    assert bound.epsilon == pytest.approx(math.log((1 - error) / error))


@pytest.mark.parametrize(("n", "delta"), [(3, 1e-5), (100, 1.0), (100, -0.1)])
def test_bad_arguments_are_refused(n: int, delta: float):
    with pytest.raises(ValueError, match=r"trials|delta"):
        epsilon_lower_bound(np.zeros(n), np.ones(n), delta=delta)
