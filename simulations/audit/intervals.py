"""Exact binomial intervals, and the true-positive rate of an attack at a low false-positive rate.

An attack gives every case a score, higher for those it takes for members. What counts is how many members it finds
while it accuses almost nobody falsely (Carlini et al. 2022, "Membership inference attacks from first principles",
section III): an area under the curve averages over thresholds at which no attacker would act.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """An attack's ROC curve: rates at every threshold, from accusing nobody to accusing all."""

    false_positive_rate: Scores
    true_positive_rate: Scores


@dataclass(frozen=True)
class AttackRate:
    """How many members an attack finds where its false-positive rate is at most ``at``.

    Parameters
    ----------
    rate : float
        Of members above the threshold.
    interval : Interval
        Clopper-Pearson, of the rate at this threshold.
    auc : float
        Of the same scores; 0.5 is chance.
    """

    at: float
    rate: float
    interval: Interval
    auc: float
    n_members: int
    n_others: int


def clopper_pearson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Exact interval of a binomial proportion (Clopper and Pearson 1934): each end leaves half of the error.

    Raises
    ------
    ValueError
        Where ``successes`` does not lie in 0..n, n is 0, or confidence is not in (0, 1).
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies in (0, 1), got {confidence}")
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return Interval(low, high)


def roc(members: Scores, others: Scores) -> Curve:
    """The curve of scores of members and others; equal scores are accused together."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    found = np.searchsorted(np.sort(members), thresholds, side="left")
    accused = np.searchsorted(np.sort(others), thresholds, side="left")
    return Curve(np.concatenate([[0.0], 1 - accused / len(others)]), np.concatenate([[0.0], 1 - found / len(members)]))


def rate_at(members: Scores, others: Scores, *, at: float = 0.01, confidence: float = 0.95) -> AttackRate:
    """The true-positive rate at the lowest threshold whose false-positive rate is at most ``at``.

    Parameters
    ----------
    members, others : ndarray of float64
        Scores of cases that were trained on, and of cases that were not.
    """
    if not len(members) or not len(others):
        raise ValueError(f"scores of {len(members)} members and {len(others)} others")
    curve = roc(members, others)
    allowed = curve.false_positive_rate <= at + 1e-12
    best = float(curve.true_positive_rate[allowed].max())
    interval = clopper_pearson(round(best * len(members)), len(members), confidence=confidence)
    return AttackRate(at, best, interval, _area(curve), len(members), len(others))


def _area(curve: Curve) -> float:
    return float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))
