"""Discrete-time survival: log odds of the event in each agreed interval, shifted by the features.

``logit hazard(k, x) = a_k + x w`` (Cox 1972, section 8; Singer and Willett 1993, J. Educ. Stat. 18:155). Its likelihood
is a sum over cases and intervals, so site sums add up to the pooled fit without strata, and only counts by interval and
sums leave a site. Which intervals a case counts in is `common.tasks.survival`'s rule: a censored case counts in the
interval of its censoring where it was followed for at least half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, complete_columns
from common.statistics.cox import survival_outcome
from common.statistics.feature_map import FeatureMap, standardised_map
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.scores import bounded_scores
from common.tables import FeatureTable

MAX_STEPS = 60
SETTLED = 1e-18


@dataclass(frozen=True, eq=False)
class HazardQuery:
    """Loss, gradient and Hessian sums of the hazards under given coefficients.

    Parameters
    ----------
    names, centres, scales
        Standardised features.
    ends_days : ndarray of float64, shape (n_intervals,)
        Rising ends; the first interval begins at 0. What happens later counts as survived.
    levels : ndarray of float64, shape (n_intervals,)
        Log odds of the event in each interval at the centres.
    coefficients : ndarray of float64, shape (n_features,)
    """

    kind: ClassVar[str] = "discrete_hazards"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    centres: Matrix
    scales: Matrix
    ends_days: Matrix
    levels: Matrix
    coefficients: Matrix

    def __post_init__(self) -> None:
        FeatureMap(self.names, self.centres, self.scales)
        if self.ends_days.ndim != 1 or not self.ends_days.size or (np.diff(self.ends_days, prepend=0.0) <= 0).any():
            raise ValueError("ends_days must be positive and rise")
        if self.levels.shape != self.ends_days.shape or self.coefficients.shape != (len(self.names),):
            raise ValueError(f"levels {self.levels.shape} or coefficients {self.coefficients.shape} do not fit")

    def summarise(self, cohort: Cohort) -> Sums:
        survived, died = self._intervals(cohort)
        x = (complete_columns(cohort.table, self.names) - self.centres) / self.scales
        advice = "the features separate the events; raise the penalty"
        score = bounded_scores(self.levels + (x @ self.coefficients)[:, None], advice=advice)
        counted = survived | died
        p = scipy.special.expit(score)
        residual = np.where(counted, p - died, 0.0)
        weight = np.where(counted, p * (1 - p), 0.0)
        across = weight.T @ x
        return {
            "survived": survived.sum(axis=0).astype(np.int64),
            "died": died.sum(axis=0).astype(np.int64),
            "loss": np.array([np.where(counted, np.logaddexp(0.0, score) - died * score, 0.0).sum()]),
            "gradient": np.concatenate([residual.sum(axis=0), x.T @ residual.sum(axis=1)]),
            "hessian": np.block(
                [[np.diag(weight.sum(axis=0)), across], [across.T, (x * weight.sum(axis=1)[:, None]).T @ x]]
            ),
        }

    def case_counts(self, cohort: Cohort) -> Indices:
        survived, died = self._intervals(cohort)
        return np.stack([part.sum(axis=0) for part in (survived, died, ~(survived | died))]).astype(np.int64)

    def _intervals(self, cohort: Cohort) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which intervals each case survived, and died in, both bool (n_cases, n_intervals)."""
        outcome = survival_outcome(cohort)
        starts = np.concatenate([[0.0], self.ends_days[:-1]])
        time, event = outcome.time_days[:, None], outcome.event[:, None]
        survived = np.where(event, time > self.ends_days, time >= (starts + self.ends_days) / 2)
        return survived, event & (time > starts) & (time <= self.ends_days)


@dataclass(frozen=True, eq=False)
class HazardModel:
    """A fitted model.

    Parameters
    ----------
    names, centres, scales
        Standardised features.
    ends_days, levels : ndarray of float64, shape (n_intervals,)
    coefficients : ndarray of float64, shape (n_features,)
        Log odds ratios a standard deviation.
    covariance : ndarray of float64
        Of levels, then coefficients.
    """

    names: tuple[str, ...]
    centres: Matrix
    scales: Matrix
    ends_days: Matrix
    levels: Matrix
    coefficients: Matrix
    covariance: Matrix

    def __post_init__(self) -> None:
        n = len(self.levels) + len(self.names)
        if self.levels.shape != self.ends_days.shape or self.coefficients.shape != self.map.centres.shape:
            raise ValueError(f"levels {self.levels.shape} or coefficients {self.coefficients.shape} do not fit")
        if self.covariance.shape != (n, n):
            raise ValueError(f"covariance {self.covariance.shape} does not fit {n} parameters")

    @property
    def map(self) -> FeatureMap:
        return FeatureMap(self.names, self.centres, self.scales)

    def predict(self, table: FeatureTable) -> Matrix:
        """Probability (n_cases, n_intervals) of surviving past each interval's end."""
        score = self.levels + (self.map.apply(table) @ self.coefficients)[:, None]
        return np.asarray(np.cumprod(scipy.special.expit(-score), axis=1), dtype=np.float64)


def discrete_hazards(
    names: Sequence[str], ends_days: Sequence[float], *, penalty: float = 0.0
) -> Procedure[HazardModel]:
    """Fit hazards in agreed intervals; ``penalty`` is ridge on the standardised coefficients, a case.

    Raises
    ------
    StatisticError
        Where an interval holds no event, or no case survives it (its level is unbounded; named); for constant, missing
        or collinear features.
    """
    feature_map = yield from standardised_map(names)
    ends = np.array(ends_days, dtype=np.float64)
    n_levels, n_features = len(ends), len(feature_map.names)
    query = HazardQuery(
        names=feature_map.names,
        centres=feature_map.centres,
        scales=feature_map.scales,
        ends_days=ends,
        levels=np.zeros(n_levels),
        coefficients=np.zeros(n_features),
    )
    at, step, last = np.zeros(n_levels + n_features), np.zeros(n_levels + n_features), math.inf
    for _ in range(MAX_STEPS):
        sums = yield replace(query, levels=at[:n_levels], coefficients=at[n_levels:])
        _require_bounded(sums, ends)
        n = float(sums["survived"][0] + sums["died"][0])
        ridge = np.r_[np.zeros(n_levels), np.full(n_features, penalty * n)]
        objective = float(sums["loss"][0]) + float(ridge @ at**2) / 2
        if objective > last + 1e-12 * abs(last):
            step = step / 2
            at = at - step
            continue
        last, hessian = objective, sums["hessian"] + np.diag(ridge)
        roots = np.linalg.eigvalsh(hessian)
        if roots[0] <= 1e-13 * roots[-1]:
            raise StatisticError("no unique solution: collinear features, or separated events; raise the penalty")
        step = -np.linalg.solve(hessian, sums["gradient"] + ridge * at)
        if float(step @ hessian @ step) / 2 <= SETTLED * max(objective, 1.0):
            covariance = np.linalg.inv(hessian).astype(np.float64)
            names, centres, scales = feature_map.names, feature_map.centres, feature_map.scales
            return HazardModel(names, centres, scales, ends, at[:n_levels], at[n_levels:], covariance)
        at = at + step
    raise StatisticError(f"hazards did not settle in {MAX_STEPS} steps; raise the penalty")


def _require_bounded(sums: Sums, ends: Matrix) -> None:
    for kind in ("died", "survived"):
        empty = np.flatnonzero(sums[kind] == 0)
        if empty.size:
            k = int(empty[0])
            start = ends[k - 1] if k else 0.0
            raise StatisticError(f"no case {kind} between day {start:g} and {ends[k]:g}: merge intervals")
