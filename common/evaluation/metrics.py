"""Discrimination from merged scores: AUC, ROC, precision and recall, the confusion at a threshold.

All are measures of the merged cases, never averages over sites: a mean of the sites' AUCs forgets every pair of cases
from two sites, which is where a scanner's offset shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.scores import CORRECTION, EDGES, OWN_TIES, ScoreSums, ordered_pairs
from common.evaluation.uncertainty import (
    Estimate,
    auc_interval,
    average,
    delong_variance,
    logit_interval,
    wilson,
)

Matrix = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


AUC_ROUNDING = 0.07
"""Measured: twice the root mean square error of 60 drawn studies of 3 x 20 to 20 x 500 cases, minimum 5 and 10, over
``sqrt(slack) (1 / positives + 1 / negatives)``."""
RATE_ROUNDING = 2.0
"""As above, of rates at a threshold, over ``sqrt(slack) / cases``."""
HIT_ROUNDING = 3.0
"""As above, of hits by most probable class."""


def auc(sums: ScoreSums, *, curve: int = 0, confidence: float = 0.95) -> Estimate:
    """Area under the ROC curve of one curve's class against the rest, with an interval.

    Returns
    -------
    Estimate
        DeLong on the logit scale; Newcombe's method 5 for few cases or an area of 0 or 1. ``bound`` is `auc_bound`.

    Raises
    ------
    MetricError
        Where a class has no case.
    """
    positives, negatives = sums.curve(curve)
    n_positive, n_negative = int(positives.sum()), int(negatives.sum())
    pairs = ordered_pairs(positives, negatives) + float(sums.pairs[curve, CORRECTION])
    value = min(max(pairs / (n_positive * n_negative), 0.0), 1.0)
    variance = delong_variance(positives, negatives)
    bound = auc_bound(sums, curve=curve)
    found = auc_interval(value, variance, n_positive, n_negative, confidence=confidence, bound=bound)
    return replace(found, rounding=AUC_ROUNDING * _slack(sums) * (1 / n_positive + 1 / n_negative))


def auc_bound(sums: ScoreSums, *, curve: int = 0) -> float:
    """How far `auc` can lie from the AUC of the single scores.

    Half the share of pairs of two sites that fall into one bin. Pairs within a site are exact and count for nothing, so
    the bound of a single site is 0.
    """
    positives, negatives = sums.curve(curve)
    ties = float(positives @ negatives) - float(sums.pairs[curve, OWN_TIES])
    return max(0.5 * ties, 0.0) / float(positives.sum() * negatives.sum())


def macro_auc(sums: ScoreSums, *, confidence: float = 0.95) -> Estimate:
    """Mean over the classes of each class's AUC against the rest; the AUC itself for two classes.

    The interval takes the classes' errors as fully correlated, so it is rather too wide than too narrow.
    """
    areas = [auc(sums, curve=i, confidence=confidence) for i in range(len(sums.positives))]
    if len(areas) == 1:
        return areas[0]
    means = np.mean([(a.value, a.low, a.high, a.bound, a.rounding) for a in areas], axis=0)
    value, low, high, bound, rounding = means.tolist()
    return Estimate(value, low, high, "mean of the classes' intervals (conservative)", bound, rounding)


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Points (n_points,) from (0, 0) to (1, 1); at ``thresholds`` and above a case counts as positive.

    ``false_positive_rate`` and ``true_positive_rate`` rise; the first threshold is infinite: nothing is positive.
    """

    false_positive_rate: Matrix
    true_positive_rate: Matrix
    thresholds: Matrix


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Points (n_points,) of rising recall, one for each threshold at which some case counts as positive."""

    precision: Matrix
    recall: Matrix
    thresholds: Matrix


def roc_curve(sums: ScoreSums, *, curve: int = 0) -> RocCurve:
    """The ROC curve at the edges of the agreed bins where it moves."""
    true_positives, false_positives, thresholds = _falling(sums, curve)
    tpr = np.concatenate([[0.0], true_positives / true_positives[-1]])
    fpr = np.concatenate([[0.0], false_positives / false_positives[-1]])
    return RocCurve(fpr, tpr, np.concatenate([[np.inf], thresholds]))


def pr_curve(sums: ScoreSums, *, curve: int = 0) -> PrecisionRecallCurve:
    """Precision and recall at the edges of the agreed bins where they move."""
    true_positives, false_positives, thresholds = _falling(sums, curve)
    precision = true_positives / (true_positives + false_positives)
    return PrecisionRecallCurve(precision, true_positives / true_positives[-1], thresholds)


def average_precision(sums: ScoreSums, *, curve: int = 0, confidence: float = 0.95) -> Estimate:
    """Area under the precision-recall steps (sum of precision times gain in recall).

    The interval is symmetric on the logit scale with n = positives (Boyd et al. 2013, ECML PKDD, section 3); for an
    area of 0 or 1 it is Wilson's for as many cases. ``bound`` compares the best and worst order in shared bins.
    """
    points = pr_curve(sums, curve=curve)
    value = min(float(points.precision @ np.diff(points.recall, prepend=0.0)), 1.0)
    n_positive = int(sums.curve(curve)[0].sum())
    bound = _precision_bound(sums, curve, value)
    rounding = min(1.0, _slack(sums) / n_positive)
    if not 0 < value < 1:
        ends = wilson(n_positive, n_positive, confidence=confidence)
        return Estimate(value, ends.low, ends.high, "Wilson with n = positives", bound, rounding)
    error = math.sqrt(value * (1 - value) / n_positive)
    found = logit_interval(value, error, confidence=confidence, method="logit with n = positives", bound=bound)
    return replace(found, rounding=rounding)


@dataclass(frozen=True)
class Confusion:
    """Counts of two classes at a threshold, and the rates that follow, each with Wilson's interval.

    Parameters
    ----------
    threshold : float
        The edge of the agreed bins that was used; a probability at or above it counts as positive.
    slack : int
        How far each of the four counts may be off at most, by the small-cell rule.
    """

    threshold: float
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    confidence: float = 0.95
    slack: int = 0

    @property
    def n_cases(self) -> int:
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    def sensitivity(self) -> Estimate:
        return self._rate(self.true_positive, self.true_positive + self.false_negative, 1, "sensitivity")

    def specificity(self) -> Estimate:
        return self._rate(self.true_negative, self.true_negative + self.false_positive, 1, "specificity")

    def ppv(self) -> Estimate:
        return self._rate(self.true_positive, self.true_positive + self.false_positive, 2, "positive predictive value")

    def npv(self) -> Estimate:
        return self._rate(self.true_negative, self.true_negative + self.false_negative, 2, "negative predictive value")

    def accuracy(self) -> Estimate:
        return self._rate(self.true_positive + self.true_negative, self.n_cases, 2, "accuracy")

    def balanced_accuracy(self) -> Estimate:
        return average(self.sensitivity(), self.specificity(), method="Wilson, squared and added")

    def _rate(self, successes: int, n: int, uncertain: int, what: str) -> Estimate:
        found = wilson(successes, n, confidence=self.confidence, what=what)
        return replace(found, rounding=min(RATE_ROUNDING * math.sqrt(uncertain * self.slack), self.slack) / n)


def confusion(sums: ScoreSums, *, threshold: float, curve: int = 0, confidence: float = 0.95) -> Confusion:
    """Counts at the bin edge nearest to ``threshold``; full percents from 1 % to 99 % are edges."""
    if not 0 <= threshold <= 1:
        raise MetricError(f"a threshold is a probability, got {threshold}")
    edge = int(np.abs(EDGES - threshold).argmin())
    positives, negatives = sums.positives[curve], sums.negatives[curve]
    hit, false_alarm = int(positives[edge:].sum()), int(negatives[edge:].sum())
    return Confusion(
        threshold=float(EDGES[edge]),
        true_positive=hit,
        false_positive=false_alarm,
        true_negative=int(negatives.sum()) - false_alarm,
        false_negative=int(positives.sum()) - hit,
        confidence=confidence,
        slack=int(sums.slack[0]),
    )


def accuracy(sums: ScoreSums, *, confidence: float = 0.95) -> Estimate:
    """Share of cases whose most probable class is theirs, with Wilson's interval."""
    found = wilson(int(np.trace(sums.confusion)), int(sums.confusion.sum()), confidence=confidence, what="accuracy")
    return replace(found, rounding=HIT_ROUNDING * _slack(sums) * math.sqrt(sums.n_classes) / sums.n_cases)


def balanced_accuracy(sums: ScoreSums, *, confidence: float = 0.95) -> Estimate:
    """Mean over the classes of the share found; intervals of the classes are squared and added."""
    found, n = np.diag(sums.confusion).tolist(), sums.confusion.sum(axis=1).tolist()
    shares = [wilson(found[k], n[k], confidence=confidence, what=f"recall of class {k}") for k in range(len(n))]
    value = sum(share.value for share in shares) / len(shares)
    low = value - math.hypot(*(share.value - share.low for share in shares)) / len(shares)
    high = value + math.hypot(*(share.high - share.value for share in shares)) / len(shares)
    rounding = HIT_ROUNDING * _slack(sums) * math.hypot(*(1 / size for size in n)) / len(n)
    return Estimate(value, low, high, "Wilson, squared and added", 0.0, rounding)


def _slack(sums: ScoreSums) -> float:
    """Root of the sites' group sizes: errors of several sites add up like independent ones."""
    return math.sqrt(float(sums.slack[0]))


def classification_summary(
    sums: ScoreSums, *, threshold: float = 0.5, confidence: float = 0.95
) -> Mapping[str, Estimate]:
    """The measures of a report's first table by name; those that are undefined on these cases are absent."""
    found: dict[str, Estimate] = {}
    measures: dict[str, Callable[[], Estimate]] = {
        "auc": lambda: macro_auc(sums, confidence=confidence),
        "accuracy": lambda: accuracy(sums, confidence=confidence),
        "balanced_accuracy": lambda: balanced_accuracy(sums, confidence=confidence),
    }
    if sums.n_classes == 2:
        at = confusion(sums, threshold=threshold, confidence=confidence)
        measures |= {
            "average_precision": lambda: average_precision(sums, confidence=confidence),
            "sensitivity": at.sensitivity,
            "specificity": at.specificity,
            "ppv": at.ppv,
            "npv": at.npv,
        }
    for name, measure in measures.items():
        try:
            found[name] = measure()
        except MetricError:
            continue  # undefined here: the report shows a gap, never a number
    return found


def _falling(sums: ScoreSums, curve: int) -> tuple[Counts, Counts, Matrix]:
    """Running counts of both classes from the highest bin down, where one of them moves, and the bins' lower edges."""
    positives, negatives = sums.curve(curve)
    filled = np.flatnonzero(positives + negatives)[::-1]
    return np.cumsum(positives[filled]), np.cumsum(negatives[filled]), EDGES[filled]


def _precision_bound(sums: ScoreSums, curve: int, value: float) -> float:
    """Largest distance of the average precision from that under the best or worst order within the bins."""
    positives, negatives = (counts[::-1] for counts in sums.curve(curve))
    filled = np.flatnonzero(positives)
    before_hits, before_alarms = np.cumsum(positives) - positives, np.cumsum(negatives) - negatives
    repeats = positives[filled]
    rank = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
    hits = np.repeat(before_hits[filled], repeats) + rank
    alarms = np.repeat(before_alarms[filled], repeats)
    best = float((hits / (hits + alarms)).mean())
    worst = float((hits / (hits + alarms + np.repeat(negatives[filled], repeats))).mean())
    return min(max(best - value, value - worst, 0.0), 1.0)
