"""Do the probabilities mean what they say: Brier score, log-loss, calibration curve, slope and intercept.

Brier score and log-loss are exact. Curve and line take each bin's centre for its probabilities: off by at most 1/800,
or a sixteenth of the value below 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import MetricError
from common.evaluation.scores import (
    BRIER,
    BRIER_SQUARES,
    CENTRES,
    LOG_LOSS,
    LOG_LOSS_SQUARES,
    ScoreSums,
)
from common.evaluation.uncertainty import Estimate, mean_interval, normal_quantile, wilson

Matrix = npt.NDArray[np.float64]


def brier(sums: ScoreSums, *, confidence: float = 0.95) -> Estimate:
    """Mean squared error of the event's probability; for more than two classes summed over the classes."""
    return mean_interval(
        float(sums.losses[BRIER]), float(sums.losses[BRIER_SQUARES]), sums.n_cases, confidence=confidence, lowest=0.0
    )


def log_loss(sums: ScoreSums, *, confidence: float = 0.95) -> Estimate:
    """Mean negative logarithm of the true class's probability."""
    return mean_interval(
        float(sums.losses[LOG_LOSS]),
        float(sums.losses[LOG_LOSS_SQUARES]),
        sums.n_cases,
        confidence=confidence,
        lowest=0.0,
    )


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Observed frequency against predicted probability in groups of similar predictions.

    Parameters
    ----------
    predicted : ndarray, shape (n_groups,)
        Mean prediction.
    observed, low, high : ndarray, shape (n_groups,)
        Share of positives with Wilson's interval.
    n_cases : ndarray of int64, shape (n_groups,)
    expected_error : float
        Mean absolute distance of observed and predicted, weighted by cases.
    """

    predicted: Matrix
    observed: Matrix
    low: Matrix
    high: Matrix
    n_cases: npt.NDArray[np.int64]
    expected_error: float


def calibration_curve(
    sums: ScoreSums, *, n_groups: int = 10, curve: int = 0, confidence: float = 0.95
) -> CalibrationCurve:
    """Groups of about equally many cases, cut at edges of the agreed bins; empty groups are left out."""
    positives, negatives = sums.positives[curve], sums.negatives[curve]
    both = positives + negatives
    if not both.sum():
        raise MetricError("calibration of no case")
    middle = (np.cumsum(both) - 0.5 * both) / both.sum()
    group = np.minimum((middle * n_groups).astype(np.int64), n_groups - 1)
    n = np.bincount(group, both, n_groups).astype(np.int64)
    kept = n > 0
    hits = np.bincount(group, positives, n_groups).astype(np.int64)[kept]
    predicted = np.bincount(group, both * CENTRES, n_groups)[kept] / n[kept]
    rates = [wilson(int(hit), int(size), confidence=confidence) for hit, size in zip(hits, n[kept], strict=True)]
    observed = np.array([rate.value for rate in rates])
    error = float(np.abs(observed - predicted) @ n[kept] / both.sum())
    low, high = np.array([rate.low for rate in rates]), np.array([rate.high for rate in rates])
    return CalibrationCurve(predicted, observed, low, high, n[kept], error)


@dataclass(frozen=True)
class CalibrationLine:
    """``logit P(event) = intercept + slope * logit p``; a calibrated model has intercept 0 and slope 1.

    ``in_the_large`` is the intercept with the slope held at 1: is the overall level right (Cox 1958; Van Calster et al.
    2019, BMC Med. 17:230)?
    """

    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate


def calibration_line(sums: ScoreSums, *, curve: int = 0, confidence: float = 0.95) -> CalibrationLine:
    """Calibration slope and intercept by maximum likelihood on the merged bins, with Wald's intervals.

    Raises
    ------
    MetricError
        Where a class is absent, or scores separate the classes or do not vary: no finite line exists.
    """
    positives, negatives = sums.curve(curve)
    filled = positives + negatives > 0
    x = scipy.special.logit(CENTRES[filled])
    events, n = positives[filled].astype(np.float64), (positives + negatives)[filled].astype(np.float64)
    free, covariance = _logistic(np.column_stack([np.ones_like(x), x]), events, n, np.zeros_like(x))
    level, level_covariance = _logistic(np.ones((len(x), 1)), events, n, x)
    z = normal_quantile(confidence)

    def wald(value: float, variance: float) -> Estimate:
        half = z * math.sqrt(variance)
        return Estimate(value, value - half, value + half, "Wald")

    return CalibrationLine(
        slope=wald(float(free[1]), float(covariance[1, 1])),
        intercept=wald(float(free[0]), float(covariance[0, 0])),
        in_the_large=wald(float(level[0]), float(level_covariance[0, 0])),
    )


def _logistic(design: Matrix, events: Matrix, n: Matrix, offset: Matrix) -> tuple[Matrix, Matrix]:
    """Newton's method with halved steps on grouped counts: coefficients and their covariance."""
    beta = np.zeros(design.shape[1])

    def deviance(at: Matrix) -> float:
        eta = offset + design @ at
        return float(n @ np.logaddexp(0.0, eta) - events @ eta)

    current = deviance(beta)
    for _ in range(100):
        p = scipy.special.expit(offset + design @ beta)
        information = design.T @ (design * (n * p * (1 - p))[:, None])
        if np.linalg.cond(information) > 1e12:
            break
        step = np.linalg.solve(information, design.T @ (events - n * p))
        while deviance(beta + step) > current + 1e-12 * abs(current) and np.abs(step).max() > 1e-10:
            step = step / 2
        beta = beta + step
        current = deviance(beta)
        if np.abs(step).max() < 1e-9:
            covariance = np.linalg.inv(information).astype(np.float64)
            return beta, covariance
    raise MetricError("no finite calibration line: scores separate the classes, or do not vary")
