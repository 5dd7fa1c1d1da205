"""Recalibration of probabilities from merged score counts: Platt's line and isotonic regression.

Both are learned from `common.evaluation.ScoreSums` of a calibration split, so no new question is asked of a site, and
both are applied by the sites case by case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from common.errors import StatisticError
from common.evaluation.reliability import calibration_line
from common.evaluation.scores import CENTRES, ScoreSums
from common.statistics.columns import Matrix

LEAST = 2.0**-53
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class PlattMap:
    """``expit(intercept + slope * logit p)`` (Platt 1999, on log odds)."""

    intercept: float
    slope: float

    def __post_init__(self) -> None:
        if not self.slope > 0:
            raise ValueError(f"a slope of {self.slope:g} would turn the order of the cases round")

    def apply(self, probabilities: Matrix) -> Matrix:
        """Recalibrated probabilities (n_cases, 2) of two classes."""
        event = np.clip(_event(probabilities), LEAST, 1 - LEAST)
        return _two_columns(scipy.special.expit(self.intercept + self.slope * scipy.special.logit(event)))


@dataclass(frozen=True, eq=False)
class IsotonicMap:
    """Straight lines between points (n_points,) of rising ``at`` and not falling ``values``."""

    at: Matrix
    values: Matrix

    def __post_init__(self) -> None:
        if self.at.shape != self.values.shape or self.at.ndim != 1 or not self.at.size:
            raise ValueError(f"points {self.at.shape} and values {self.values.shape} do not fit")
        if (np.diff(self.at) <= 0).any() or (np.diff(self.values) < 0).any():
            raise ValueError("points must rise and values must not fall")
        if self.values[0] < 0 or self.values[-1] > 1:
            raise ValueError("values lie between 0 and 1")

    def apply(self, probabilities: Matrix) -> Matrix:
        """Recalibrated probabilities (n_cases, 2) of two classes."""
        return _two_columns(np.interp(_event(probabilities), self.at, self.values))


def platt(sums: ScoreSums) -> PlattMap:
    """Fit Platt's line to the merged bins.

    Raises
    ------
    MetricError
        Where a class is absent or no finite line exists.
    StatisticError
        For more than two classes, or where higher scores go with fewer events.
    """
    _require_two_classes(sums)
    line = calibration_line(sums)
    if line.slope.value <= 0:
        raise StatisticError(f"higher scores go with fewer events (slope {line.slope.value:.3g}): nothing to calibrate")
    return PlattMap(line.intercept.value, line.slope.value)


def isotonic(sums: ScoreSums) -> IsotonicMap:
    """Least-squares isotonic regression on the merged bins, each at its centre.

    Pool-adjacent-violators (Ayer et al. 1955, Ann. Math. Stat. 26:641). Under the small-cell rule steps stand for
    groups of cases like all counts do.

    Raises
    ------
    MetricError
        Where a class is absent.
    StatisticError
        For more than two classes.
    """
    _require_two_classes(sums)
    positives, negatives = sums.curve()
    filled = np.flatnonzero(positives + negatives)
    weights = (positives + negatives)[filled].astype(np.float64)
    values = _pooled(positives[filled].astype(np.float64) / weights, weights)
    # inside a block only its ends are needed for straight lines
    rises = np.diff(values) > 0
    kept = np.r_[True, rises] | np.r_[rises, True]
    return IsotonicMap(CENTRES[filled][kept], values[kept])


def _pooled(values: Matrix, weights: Matrix) -> Matrix:
    """The weighted least-squares fit that does not fall."""
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        masses.append(weight)
        lengths.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            mass = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / mass]
            masses[-2:] = [mass]
            lengths[-2:] = [lengths[-2] + lengths[-1]]
    return np.repeat(means, lengths)


def _require_two_classes(sums: ScoreSums) -> None:
    if sums.n_classes != 2:
        raise StatisticError(f"calibration maps are for two classes, got {sums.n_classes}")


def _event(probabilities: Matrix) -> Matrix:
    if probabilities.ndim != 2 or probabilities.shape[1] != 2:
        raise StatisticError(f"calibration maps are for two classes, got probabilities {probabilities.shape}")
    return probabilities[:, 1]


def _two_columns(event: Matrix) -> Matrix:
    return np.column_stack([1 - event, event])
