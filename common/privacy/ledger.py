"""What releases cost: `PrivacyEvent` (a value) -> epsilon (the accountant), and the noise that a budget asks for.

Every event is a Gaussian mechanism: noise of standard deviation ``noise_multiplier`` times the L2 sensitivity, on a
Poisson sample in which each case takes part with probability ``sampling_rate`` (1: all cases), ``steps`` times. The
unit of privacy is one case, added or removed, of one hospital. Events compose; their order is irrelevant.

Two accountants, which are upper bounds of the same loss: Renyi differential privacy (Mironov, Talwar and Zhang 2019,
arXiv:1908.10530) is cheap and decides what may happen; numerical composition of privacy loss distributions (Doroshenko
et al. 2022, arXiv:2207.04380, as dp-accounting has it) is tighter and stands in reports. Both give dp-accounting's
figures: the same orders and the same bound between whole orders, the same pessimistic discretization.

The vocabulary grows by a mechanism here, with its Renyi divergence; an event of a mechanism that is not known is
refused, never counted as nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import PrivacyError
from common.messages import PrivacyEvent

Accountant = Literal["rdp", "pld"]

GAUSSIAN = "gaussian"
"""Noise on a sum over all cases: ``sampling_rate`` is 1."""
SAMPLED_GAUSSIAN = "sampled_gaussian"
"""Noise on a sum over a Poisson sample of the cases: a step of DP-SGD (Abadi et al. 2016)."""
MECHANISMS = (GAUSSIAN, SAMPLED_GAUSSIAN)

ORDERS = np.array([*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024])
"""Renyi orders that the accountant tries, those of dp-accounting; fractional ones below 11, where large epsilons have
their best order."""

MOST_TERMS = 1000
"""Of the series at a fractional order; an order whose series has not come to rest by then is left out."""
AT_REST = 30.0
"""A series is cut where its terms fall and are ``exp(-30)`` of their sum."""
ROUNDING = 1e-14
"""Added to every logarithm of a moment, which cancellation leaves with errors of some 1e-16: it never costs nothing."""

NOISE_TOLERANCE = 1e-4
"""Relative; `solve_noise_multiplier` errs to more noise by at most so much."""
LARGEST_NOISE_MULTIPLIER = 1e6

LEAST_MESH, MESH = 1e-4, 5e-6
"""Distance of the discrete privacy losses: dp-accounting's, and from epsilon 20 on in proportion to epsilon, so that
their number does not grow. What is left of the result's digits is far below 1 %."""
LARGEST_COMPOSED = 1e5
"""Renyi epsilons above which nothing is composed: no promise is left to be told more exactly."""

_Group = tuple[float, float]


def gaussian(noise_multiplier: float, *, steps: int = 1) -> PrivacyEvent:
    """The event of ``steps`` releases of a sum over all cases."""
    return PrivacyEvent(GAUSSIAN, noise_multiplier, 1.0, steps)


def sampled_gaussian(noise_multiplier: float, *, sampling_rate: float, steps: int) -> PrivacyEvent:
    """The event of ``steps`` releases of a sum over a Poisson sample each."""
    return PrivacyEvent(SAMPLED_GAUSSIAN, noise_multiplier, sampling_rate, steps)


def epsilon(events: Iterable[PrivacyEvent], delta: float, *, accountant: Accountant = "rdp") -> float:
    """Smallest epsilon that the accountant can show for ``delta``: 0 without events, infinite without noise.

    Raises
    ------
    PrivacyError
        Where an event is none that this ledger knows, or ``delta`` is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"delta lies in (0, 1), got {delta}")
    groups = _grouped(events)
    if not groups:
        return 0.0
    if any(noise == 0 for noise, _ in groups):
        return math.inf
    by_renyi = _epsilon_rdp(groups, delta)
    if accountant == "rdp" or not 0 < by_renyi < LARGEST_COMPOSED:
        return by_renyi
    return min(by_renyi, _epsilon_pld(groups, delta, mesh=max(LEAST_MESH, MESH * by_renyi)))


def would_exceed(
    spent: Iterable[PrivacyEvent], more: Iterable[PrivacyEvent], *, target_epsilon: float, delta: float
) -> bool:
    """True where ``more`` on top of ``spent`` costs more than the budget (Renyi accountant)."""
    return epsilon([*spent, *more], delta) > target_epsilon


def solve_noise_multiplier(*, target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Least noise with which ``steps`` steps stay within (``target_epsilon``, ``delta``), solved once for a study.

    Depends on nothing but its arguments, so every round and every restart finds the same number.

    Raises
    ------
    PrivacyError
        Where no noise is enough, because epsilon is too small for the orders of the accountant.
    """
    return solve_noise_for(((sampling_rate, steps),), target_epsilon=target_epsilon, delta=delta)


def solve_noise_for(schedule: Sequence[tuple[float, int]], *, target_epsilon: float, delta: float) -> float:
    """As `solve_noise_multiplier`, one noise for several (sampling rate, steps) together.

    Raises
    ------
    PrivacyError
        Where no noise is enough.
    """
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise PrivacyError(f"a target epsilon is positive and finite, got {target_epsilon}")

    def cost(noise: float) -> float:
        return epsilon([sampled_gaussian(noise, sampling_rate=rate, steps=n) for rate, n in schedule], delta)

    low, high = 0.0, 1.0
    while cost(high) > target_epsilon:
        low, high = high, 2 * high
        if high > LARGEST_NOISE_MULTIPLIER:
            raise PrivacyError(f"no noise gives epsilon {target_epsilon} at delta {delta} in {schedule}")
    while high - low > NOISE_TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > target_epsilon else (low, middle)
    return high


def event_to_json(event: PrivacyEvent) -> list[Any]:
    """Mechanism, noise multiplier, sampling rate, steps; floats keep all bits in JSON."""
    return [event.mechanism, event.noise_multiplier, event.sampling_rate, event.steps]


def event_from_json(entry: Any) -> PrivacyEvent:
    """The event of `event_to_json`.

    Raises
    ------
    PrivacyError
        Where it is none.
    """
    match entry:
        case [str(mechanism), int() | float() as noise, int() | float() as rate, int(steps)]:
            try:
                event = PrivacyEvent(mechanism, float(noise), float(rate), steps)
            except ValueError as error:
                raise PrivacyError(f"no privacy event that can be counted: {error}") from error
            require_known(event)
            return event
    raise PrivacyError(f"no privacy event: {str(entry)[:100]}")


def require_known(event: PrivacyEvent) -> None:
    """Raise `PrivacyError` where an event cannot be accounted for."""
    faults = []
    if event.mechanism not in MECHANISMS:
        faults.append(f"mechanism {event.mechanism[:40]!r}, known are {', '.join(MECHANISMS)}")
    if not 0 <= event.noise_multiplier < math.inf:
        faults.append(f"noise multiplier {event.noise_multiplier}, expected 0 or more")
    if not 0 < event.sampling_rate <= 1:
        faults.append(f"sampling rate {event.sampling_rate}, expected a share in (0, 1]")
    if event.mechanism == GAUSSIAN and event.sampling_rate != 1:
        faults.append(f"a {GAUSSIAN} event looks at all cases, got sampling rate {event.sampling_rate}")
    if event.steps < 0:
        faults.append(f"{event.steps} steps")
    if faults:
        raise PrivacyError(f"a privacy event cannot be accounted for: {'; '.join(faults)}")


def merged(events: Iterable[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """Fewest events of equal cost: those that differ in their steps alone become one; sorted."""
    steps: Counter[tuple[str, float, float]] = Counter()
    for event in events:
        require_known(event)
        steps[event.mechanism, event.noise_multiplier, event.sampling_rate] += event.steps
    return tuple(PrivacyEvent(*key, steps[key]) for key in sorted(steps) if steps[key])


def _grouped(events: Iterable[PrivacyEvent]) -> dict[_Group, int]:
    """Steps by (noise multiplier, sampling rate)."""
    groups: Counter[_Group] = Counter()
    for event in events:
        require_known(event)
        groups[event.noise_multiplier, event.sampling_rate] += event.steps
    return {group: steps for group, steps in sorted(groups.items()) if steps}


def _epsilon_rdp(groups: dict[_Group, int], delta: float) -> float:
    """Conversion of Canonne, Kamath and Steinke 2020, proposition 12 (arXiv:2004.00010), at the best order.

    Where the total variation, at most ``sqrt(1 - exp(-divergence))`` (Bretagnolle and Huber 1979), is no more than
    delta, epsilon is 0.
    """
    divergence = np.zeros(len(ORDERS))
    for (noise, rate), steps in groups.items():
        divergence += steps * _renyi(noise, rate)
    if delta**2 >= -math.expm1(-float(divergence.min())):
        return 0.0
    values = divergence + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(values.min()))


@lru_cache(maxsize=1024)
def _renyi(noise: float, rate: float) -> npt.NDArray[np.float64]:
    """Renyi divergence of one step at each of `ORDERS` (Mironov, Talwar and Zhang 2019, section 3.3)."""
    if rate == 1:
        values = ORDERS / (2 * noise**2)
    else:
        is_whole = np.round(ORDERS) == ORDERS
        moments = np.empty(len(ORDERS))
        moments[is_whole] = [_log_moment(noise, rate, int(order)) for order in ORDERS[is_whole]]
        moments[~is_whole] = _log_moment_bounds(noise, rate, ORDERS[~is_whole])
        values = (np.maximum(moments, 0) + ROUNDING) / (ORDERS - 1)
    values.flags.writeable = False
    return values


def _log_moment(noise: float, rate: float, order: int) -> float:
    """``log E[((1 - q) + q exp((2 z - 1) / (2 s^2)))^order]`` for z from N(0, s^2), by the binomial sum."""
    k = np.arange(order + 1)
    coefficients = (
        scipy.special.gammaln(order + 1) - scipy.special.gammaln(k + 1) - scipy.special.gammaln(order - k + 1)
    )
    powers = k * math.log(rate) + (order - k) * math.log1p(-rate)
    return float(scipy.special.logsumexp(coefficients + powers + (k * k - k) / (2 * noise**2)))


def _log_moment_bounds(noise: float, rate: float, orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Upper bounds of the same moments at orders that are not whole; infinite where the series does not come to rest.

    The two binomial series of Mironov, Talwar and Zhang 2019, section 3.3, below and above ``z0``, where both parts of
    the mixture are equal. Their coefficients change sign behind the order; they are added without it, as dp-accounting
    does: never less than the moment, and up to 5 % of epsilon more at large rates.
    """
    bounds = np.full(len(orders), np.inf)
    open_ = np.arange(len(orders))
    for n_terms in (64, MOST_TERMS):
        below, above = _series(noise, rate, orders[open_], n_terms)
        total = np.logaddexp(np.logaddexp.accumulate(below), np.logaddexp.accumulate(above))
        falls = np.zeros(below.shape, dtype=np.bool_)
        falls[1:] = (below[1:] < below[:-1]) & (above[1:] < above[:-1])
        rests = falls & (np.maximum(below, above) < total - AT_REST)
        done = rests.any(axis=0)
        bounds[open_[done]] = total[rests.argmax(axis=0), np.arange(len(open_))][done]
        open_ = open_[~done]
        if not open_.size:
            break
    return bounds


def _series(
    noise: float, rate: float, orders: npt.NDArray[np.float64], n_terms: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logarithms of the terms of both series, shape (n_terms, n_orders) each."""
    z0 = noise**2 * math.log(1 / rate - 1) + 0.5
    i = np.arange(n_terms, dtype=np.float64)[:, None]
    j = orders - i
    coefficients = scipy.special.gammaln(orders + 1) - scipy.special.gammaln(i + 1) - scipy.special.gammaln(j + 1)
    log_q, log_rest = math.log(rate), math.log1p(-rate)
    below = coefficients + i * log_q + j * log_rest + (i * i - i) / (2 * noise**2)
    above = coefficients + j * log_q + i * log_rest + (j * j - j) / (2 * noise**2)
    below += scipy.special.log_ndtr((z0 - i) / noise)
    above += scipy.special.log_ndtr((j - z0) / noise)
    return below, above


def _epsilon_pld(groups: dict[_Group, int], delta: float, *, mesh: float) -> float:
    whole = sum(steps / noise**2 for (noise, rate), steps in groups.items() if rate == 1)
    parts = {group: steps for group, steps in groups.items() if group[1] < 1}
    if not parts:
        return _epsilon_of_one_gaussian(1 / math.sqrt(whole), delta)
    # here, because they load seconds of scipy that a gate need not wait for
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=mesh)
    if whole:
        accountant.compose(GaussianDpEvent(1 / math.sqrt(whole)))  # Gaussians on all cases compose to one
    for (noise, rate), steps in parts.items():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(delta))


def _epsilon_of_one_gaussian(noise: float, delta: float) -> float:
    """Exact (Balle and Wang 2018, theorem 8, arXiv:1805.06530)."""

    def log_excess(value: float) -> float:
        above, below = 1 / (2 * noise) - value * noise, -1 / (2 * noise) - value * noise
        first, second = float(scipy.special.log_ndtr(above)), value + float(scipy.special.log_ndtr(below))
        return first + math.log(-math.expm1(min(second - first, -1e-300))) - math.log(delta)

    if log_excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while log_excess(high) > 0:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if log_excess(middle) > 0 else (low, middle)
    return high
