"""A lower bound on epsilon from what an attack on canaries achieves, valid with a stated confidence.

Under (epsilon, delta) every test of "was the canary trained on?" obeys ``TPR <= e^eps FPR + delta`` and
``TNR <= e^eps FNR + delta`` (Kairouz, Oh and Viswanath 2015, theorem 2.1). So a test whose rates are *known* to be
better than an epsilon allows refutes that epsilon (Jagielski, Ullman and Oprea 2020, "Auditing differentially private
machine learning", section 4). The rates are known through Clopper-Pearson bounds; the threshold is chosen on one half
of the trials and judged on the other, so that choosing costs no confidence.

With ``n`` judged trials a side this cannot show more than about ``ln(n / 3.7)``, however good the attack is. Where
the mechanism is known to be Gaussian on all cases, its whole trade-off curve is known by one number, and the same rates
show far more (Nasr et al. 2023, "Tight auditing of differentially private machine learning", section 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import beta, norm

from simulations.audit.intervals import Scores, clopper_pearson

LARGEST_EPSILON = 100.0


@dataclass(frozen=True)
class EpsilonBound:
    """What the trials show: epsilon is at least ``epsilon``, with ``confidence``.

    Parameters
    ----------
    gaussian_epsilon : float
        The same where the mechanism is Gaussian on all cases (`math.nan` where that is not so).
    n_trials : int
        With and without the canary together, half of which were judged.
    false_positives, false_negatives : int
        Of the judged trials at the chosen threshold.
    """

    epsilon: float
    gaussian_epsilon: float
    delta: float
    confidence: float
    n_trials: int
    false_positives: int
    false_negatives: int


def epsilon_lower_bound(
    without: Scores, with_canary: Scores, *, delta: float, confidence: float = 0.95, is_gaussian: bool = False
) -> EpsilonBound:
    """Judge an attack's scores of trainings without and with the canary; higher speaks for the canary.

    Trials are taken as they come: even ones choose the threshold, odd ones are judged.

    Raises
    ------
    ValueError
        With fewer than four trials a side, or a delta that is not in [0, 1).
    """
    if min(len(without), len(with_canary)) < 4:
        raise ValueError(f"{len(without)} and {len(with_canary)} trials, expected at least 4 of each")
    if not 0 <= delta < 1:
        raise ValueError(f"delta lies in [0, 1), got {delta}")
    threshold = _best_threshold(without[0::2], with_canary[0::2], delta, confidence, is_gaussian=is_gaussian)
    judged_without, judged_with = without[1::2], with_canary[1::2]
    n_false_positive = int((judged_without >= threshold).sum())
    n_false_negative = int((judged_with < threshold).sum())
    fpr, fnr = _upper_rates(n_false_positive, len(judged_without), n_false_negative, len(judged_with), confidence)
    return EpsilonBound(
        epsilon=_shown(fpr, fnr, delta),
        gaussian_epsilon=_shown_gaussian(fpr, fnr, delta) if is_gaussian else math.nan,
        delta=delta,
        confidence=confidence,
        n_trials=len(without) + len(with_canary),
        false_positives=n_false_positive,
        false_negatives=n_false_negative,
    )


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Delta of a Gaussian mechanism of sensitivity over noise ``mu`` (Balle and Wang 2018, theorem 8)."""
    if mu <= 0:
        return 0.0
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a Gaussian mechanism of sensitivity over noise ``mu`` at ``delta``."""
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    if gaussian_delta(LARGEST_EPSILON, mu) > delta:
        return LARGEST_EPSILON
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, LARGEST_EPSILON))


def _upper_rates(n_fp: int, n_without: int, n_fn: int, n_with: int, confidence: float) -> tuple[float, float]:
    """Upper ends of both error rates that hold together: each leaves half of the error."""
    return (
        clopper_pearson(n_fp, n_without, confidence=confidence).high,
        clopper_pearson(n_fn, n_with, confidence=confidence).high,
    )


def _shown(fpr: float, fnr: float, delta: float) -> float:
    """The largest epsilon that error rates of at most these refute; 0 where they refute none."""
    found = 0.0
    for hit, error in ((1 - fnr, fpr), (1 - fpr, fnr)):
        if hit > delta and error > 0:
            found = max(found, math.log((hit - delta) / error))
    return found


def _shown_gaussian(fpr: float, fnr: float, delta: float) -> float:
    """As `_shown`, for a trade-off curve of the Gaussian family: ``mu >= z(1 - FPR) - z(FNR)`` (Dong et al. 2022)."""
    return gaussian_epsilon(float(norm.ppf(1 - fpr) - norm.ppf(fnr)), delta)


def _best_threshold(
    without: Scores, with_canary: Scores, delta: float, confidence: float, *, is_gaussian: bool
) -> float:
    """The threshold that would show most on these trials."""
    candidates = np.unique(np.concatenate([without, with_canary]))
    n_false_positive = len(without) - np.searchsorted(np.sort(without), candidates, side="left")
    n_false_negative = np.searchsorted(np.sort(with_canary), candidates, side="left")
    fpr = _upper_ends(n_false_positive, len(without), confidence)
    fnr = _upper_ends(n_false_negative, len(with_canary), confidence)
    if is_gaussian:
        shown = norm.ppf(1 - fpr) - norm.ppf(fnr)  # epsilon rises with it
    else:
        hits = np.maximum(np.stack([(1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr]), 1e-300)
        shown = np.log(hits).max(axis=0)
    return float(candidates[int(np.argmax(shown))])


def _upper_ends(successes: npt.NDArray[np.int64], n: int, confidence: float) -> Scores:
    """Upper ends of `clopper_pearson` for many counts at once."""
    tail = (1 - confidence) / 2
    inner = np.minimum(successes, n - 1)
    return np.where(successes < n, beta.ppf(1 - tail, inner + 1, n - inner), 1.0)
