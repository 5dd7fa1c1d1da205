"""Decision curve: is acting on the prediction better than acting on all cases or on none?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.metrics import confusion
from common.evaluation.scores import ScoreSums
from common.evaluation.uncertainty import normal_quantile

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit (n_thresholds,) of acting on the prediction, with an interval, and of acting on all cases.

    Acting on none has a net benefit of 0 (Vickers and Elkin 2006, Med. Decis. Making 26:565).
    """

    thresholds: Matrix
    net_benefit: Matrix
    low: Matrix
    high: Matrix
    treat_all: Matrix


DECISION_THRESHOLDS: Matrix = np.arange(1, 100) / 100


def decision_curve(
    sums: ScoreSums, *, thresholds: Matrix = DECISION_THRESHOLDS, curve: int = 0, confidence: float = 0.95
) -> DecisionCurve:
    """Net benefit at each threshold: true positives less false positives at the threshold's odds, a case."""
    counts = [confusion(sums, threshold=float(threshold), curve=curve) for threshold in thresholds]
    used = np.array([count.threshold for count in counts])
    if not ((used > 0) & (used < 1)).all():
        raise MetricError("a decision threshold lies strictly between 0 and 1")
    n = sums.curve(curve)[0].sum() + sums.curve(curve)[1].sum()
    hits = np.array([count.true_positive for count in counts]) / n
    alarms = np.array([count.false_positive for count in counts]) / n
    odds = used / (1 - used)
    benefit = hits - odds * alarms
    half = normal_quantile(confidence) * np.sqrt(np.maximum(hits + odds**2 * alarms - benefit**2, 0.0) / n)
    prevalence = sums.positives[curve].sum() / n
    return DecisionCurve(used, benefit, benefit - half, benefit + half, prevalence - odds * (1 - prevalence))
