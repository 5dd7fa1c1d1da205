"""Intervals: proportions, areas under a curve, means. All from counts and sums, so they serve merged answers alike.

Sources: Wilson 1927 (J. Am. Stat. Assoc. 22:209); Newcombe 2006 (Stat. Med. 25:559, method 5) for an area under the ROC
curve; DeLong et al. 1988 (Biometrics 44:837); Newcombe 1998 (Stat. Med. 17:873) for combining two intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import MetricError

Matrix = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

FEW_CASES = 10
"""Below so many cases of either class DeLong's variance is not trusted; Newcombe's interval takes its place."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Parameters
    ----------
    value, low, high : float
    method : str
        How the interval was made, in words for the report.
    bound : float
        How far, at most, binning has moved ``value`` from what the single scores would give. The interval is about the
        sampling of cases and does not contain it.
    rounding : float
        How far the small-cell rule has typically moved ``value``: two standard deviations, measured
        (`common.evaluation.rounding`); 0 where counts left as they were.
    """

    value: float
    low: float
    high: float
    method: str
    bound: float = 0.0
    rounding: float = 0.0

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"the interval {self.low}..{self.high} does not hold its value {self.value}")


def normal_quantile(confidence: float) -> float:
    """Two-sided standard normal quantile, 1.96 at 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")
    return float(scipy.special.ndtri(0.5 + confidence / 2))


def wilson(successes: int, n: int, *, confidence: float = 0.95, what: str = "proportion") -> Estimate:
    """A proportion with Wilson's score interval.

    Raises
    ------
    MetricError
        Where ``n`` is 0: ``what`` names the proportion.
    """
    if n == 0:
        raise MetricError(f"{what} is undefined: no case to count")
    z2 = normal_quantile(confidence) ** 2
    value = successes / n
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) / (1 + z2 / n) * math.sqrt(value * (1 - value) / n + z2 / (4 * n * n))
    return Estimate(value, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)), "Wilson")


def mean_interval(
    total: float, squares: float, n: int, *, confidence: float = 0.95, lowest: float = -math.inf
) -> Estimate:
    """Mean of ``n`` values from their sum and sum of squares, with Student's t.

    No value is below ``lowest``, so the interval ends there.

    Raises
    ------
    MetricError
        With fewer than 2 values.
    """
    if n < 2:
        raise MetricError(f"the interval of a mean needs 2 cases, got {n}")
    value = total / n
    variance = max(squares - total * value, 0.0) / (n - 1)
    half = float(scipy.special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
    return Estimate(value, max(value - half, lowest), value + half, "Student's t")


def logit_interval(value: float, standard_error: float, *, confidence: float, method: str, bound: float) -> Estimate:
    """Interval of a value strictly between 0 and 1 that is symmetric on the logit scale (delta method)."""
    half = normal_quantile(confidence) * standard_error / (value * (1 - value))
    centre = float(scipy.special.logit(value))
    low, high = float(scipy.special.expit(centre - half)), float(scipy.special.expit(centre + half))
    return Estimate(value, min(low, value), max(high, value), method, bound)


def auc_interval(
    value: float, variance: float, n_positive: int, n_negative: int, *, confidence: float, bound: float
) -> Estimate:
    """Interval of an AUC: DeLong on the logit scale, or Newcombe's where that would be too narrow or undefined."""
    if min(n_positive, n_negative) < FEW_CASES or variance <= 0 or not 0 < value < 1:
        low, high = newcombe_auc(value, n_positive, n_negative, confidence=confidence)
        return Estimate(value, low, high, "Newcombe's method 5", bound)
    error = math.sqrt(variance)
    return logit_interval(value, error, confidence=confidence, method="DeLong on the logit scale", bound=bound)


def newcombe_auc(value: float, n_positive: int, n_negative: int, *, confidence: float) -> tuple[float, float]:
    """Score-type interval of an AUC that has a width even at 0 and 1 and with single cases (Newcombe 2006, method 5).

    Each end is the theta with ``|value - theta| = z sqrt(V(theta))``, V being Hanley and McNeil's variance.
    """
    from scipy import optimize  # here, because every start of a site would pay for it

    z = normal_quantile(confidence)
    half_size = (n_positive + n_negative) / 2 - 1

    def distance(theta: float) -> float:
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) * (1 + half_size * spread) / (n_positive * n_negative)
        return abs(theta - value) - z * math.sqrt(max(variance, 0.0))

    # at a value of 0 or 1 the value itself is the trivial root: the bracket ends just beside it
    low = float(optimize.brentq(distance, 0.0, value - 1e-12)) if value > 1e-9 else 0.0
    high = float(optimize.brentq(distance, value + 1e-12, 1.0)) if value < 1 - 1e-9 else 1.0
    return min(low, value), max(high, value)


def delong_variance(positives: Counts, negatives: Counts) -> float:
    """DeLong's variance of the AUC from the histograms (n_bins,) of both classes over rising scores; ties count half.

    0 where a class has a single case: its part is then unknown, and `auc_interval` takes another method.
    """
    n_positive, n_negative = int(positives.sum()), int(negatives.sum())
    of_positive = (np.cumsum(negatives) - 0.5 * negatives) / n_negative
    of_negative = 1.0 - (np.cumsum(positives) - 0.5 * positives) / n_positive
    return _placement_variance(of_positive, positives) + _placement_variance(of_negative, negatives)


def _placement_variance(placements: Matrix, weights: Counts) -> float:
    n = int(weights.sum())
    if n < 2:
        return 0.0
    mean = float(placements @ weights) / n
    return float((placements - mean) ** 2 @ weights) / (n - 1) / n


def average(first: Estimate, second: Estimate, *, method: str) -> Estimate:
    """Mean of two independent values; the interval combines theirs by squaring and adding (Newcombe 1998)."""
    value = (first.value + second.value) / 2
    low = value - 0.5 * math.hypot(first.value - first.low, second.value - second.low)
    high = value + 0.5 * math.hypot(first.high - first.value, second.high - second.value)
    bound, rounding = (first.bound + second.bound) / 2, math.hypot(first.rounding, second.rounding) / 2
    return Estimate(value, low, high, method, bound, rounding)


def difference(first: Estimate, second: Estimate, *, method: str) -> Estimate:
    """First less second, of independent values; the interval combines theirs by squaring and adding (Newcombe 1998)."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    bound, rounding = first.bound + second.bound, math.hypot(first.rounding, second.rounding)
    return Estimate(value, low, high, method, bound, rounding)
