"""Site-level differential privacy with noise at the coordinator (McMahan et al. 2018, arXiv:1710.06963), both halves.

The unit is a hospital's whole data set: what its update adds to a round is replaced by zeros, while the number of
hospitals stays. The hospital scales its update down to a norm; the coordinator does so again, because its noise is
measured against that, adds all with equal weight, adds Gaussian noise to the *sum*, and divides by the number of
hospitals. What a strategy then makes of this one mean costs nothing more, so every strategy that asks for no more than
the mean can stand behind it.

Law: without noise, and with updates below the norm, the mean is the mean; and one hospital's update, whatever it is,
moves the sum by at most the norm.

This keeps a hospital from all who see the model; the coordinator itself sees the updates, and is trusted with them. All
hospitals take part in each round, so no amplification by sampling is claimed. Under secure aggregation the hospitals
add the noise, in shares (`common.privacy.discrete_gaussian`), and the coordinator need not be trusted.

The norm can follow the updates: `AdaptiveNorm` (Andrew et al. 2021, arXiv:1905.03871) moves it towards a quantile of
their norms by a noisy count of updates below it, which takes its share of each round's cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from common.arrays import Parameters, Vector
from common.errors import FederationError
from common.messages import LocalUpdate, PrivacyEvent
from common.privacy.clipping import clip_parameters, clip_vector, finite_norm
from common.privacy.gaussian import inflated, with_noise
from common.privacy.ledger import gaussian
from common.rng import NoiseSource

CLIPPED = 1 - 1e-5
"""An update whose norm exceeds this share of the norm was scaled down to it, by a site whose dtype rounds."""


@dataclass(frozen=True)
class AdaptiveNorm:
    """How the norm follows the updates.

    Parameters
    ----------
    quantile : float
        Share of the updates that should lie below the norm.
    learning_rate : float
        The norm changes by at most about ``exp(learning_rate)`` in a round.
    share : float
        Of each round's cost, in squared inverse noise multipliers, what the count of updates takes.
    """

    quantile: float
    learning_rate: float
    share: float

    def moved(self, norm: float, counted: float) -> float:
        """The next norm from the (noisy) share of updates below this one (equation in section 2)."""
        return norm * math.exp(-self.learning_rate * (min(max(counted, 0.0), 1.0) - self.quantile))


@dataclass(frozen=True)
class SiteLevel:
    """The mechanism of a round.

    Parameters
    ----------
    noise_multiplier : float
        Of the whole round; with an adaptive norm the noise of the sum is larger, that of the count takes the rest.
    adaptive : AdaptiveNorm, optional
    """

    noise_multiplier: float
    adaptive: AdaptiveNorm | None = None

    @property
    def of_the_sum(self) -> float:
        """Noise multiplier of the sum of updates."""
        share = self.adaptive.share if self.adaptive else 0.0
        return self.noise_multiplier / math.sqrt(1 - share)

    @property
    def std_of_the_count(self) -> float:
        """Standard deviation of the noise on the count. A site weighs a half up or down, so an update that is replaced
        by zeros, which lie below every norm, moves it by 1.
        """
        return self.noise_multiplier / math.sqrt(self.adaptive.share) if self.adaptive else math.inf

    def cost(self) -> tuple[PrivacyEvent, ...]:
        """What a round costs."""
        if self.adaptive is None:
            return (gaussian(self.noise_multiplier),)
        return gaussian(self.of_the_sum), gaussian(self.std_of_the_count)


@dataclass(frozen=True, eq=False)
class NoisyMean:
    """What a round gives: one update in place of all, and the norm of the next round."""

    update: LocalUpdate
    next_norm: float


def protected(update: LocalUpdate, *, clipping_norm: float) -> LocalUpdate:
    """The site's half: the delta scaled down to the norm; its loss and number of cases stay at the site.

    Raises
    ------
    PrivacyError
        Where a value is not finite.
    """
    delta = clip_parameters(update.delta, clipping_norm=clipping_norm)
    return replace(update, delta=delta, n_cases=1, train_loss=0.0)


def noisy_mean(
    updates: Iterable[LocalUpdate],
    parameters: Parameters,
    *,
    level: SiteLevel,
    clipping_norm: float,
    n_sites: int,
    source: NoiseSource,
) -> NoisyMean:
    """The coordinator's half; one update is held at a time.

    Parameters
    ----------
    parameters : Parameters
        Of the round's start: their layout is the updates'.
    n_sites : int
        All that take part.

    Raises
    ------
    FederationError
        Where not all of them sent an update: the mean would be another, and who is absent would be told by it.
    PrivacyError
        Where a value is not finite.
    """
    total: Vector = np.zeros(parameters.size)
    below, latest = 0.0, None
    count = 0
    for update in updates:
        vector = update.delta.flatten()
        below += 0.5 if finite_norm(vector) <= CLIPPED * clipping_norm else -0.5
        total = total + clip_vector(vector, clipping_norm=clipping_norm)
        latest, count = update, count + 1
    if latest is None or count != n_sites:
        raise FederationError(f"site-level privacy needs an update of every site: {count} of {n_sites} came")
    std = inflated(level.of_the_sum * clipping_norm, sensitivity=clipping_norm, n_values=total.size)
    mean = with_noise(total, std=std, source=source) / n_sites
    delta = parameters.unflatten(mean)
    update = LocalUpdate(latest.model, latest.round_number, 1, delta, 0.0, level.cost())
    if level.adaptive is None:
        return NoisyMean(update, clipping_norm)
    noisy = with_noise(np.array([below]), std=level.std_of_the_count, source=source)
    return NoisyMean(update, level.adaptive.moved(clipping_norm, float(noisy[0]) / n_sites + 0.5))


def noise_to_signal(*, noise_multiplier: float, n_values: int, n_sites: int) -> float:
    """Expected length of the noise in a mean update over the longest that the mean can be."""
    return noise_multiplier * math.sqrt(n_values) / n_sites
