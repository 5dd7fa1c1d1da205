"""Models of a weighted sum of features with a ridge penalty: logistic and ridge regression, linear support vectors.

Objective: ``mean(loss) + penalty / 2 * |w|^2`` on standardised features, the intercept free; scikit-learn's with
``C = 1 / (penalty * n)``. Sites send loss, gradient and Hessian sums, the coordinator takes Newton steps: the exact
optimum of the pooled rows after 4 to 15 questions. The same query serves random Fourier features
(`common.statistics.kernel`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np
import scipy

from common.errors import StatisticError
from common.outcomes import ClassOutcome
from common.statistics.columns import Indices, Matrix, response
from common.statistics.feature_map import FeatureMap, standardised_map
from common.statistics.outcome_groups import outcome_group_sizes
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.scores import bounded_scores
from common.tables import FeatureTable

MarginLoss = Literal["logistic", "squared_hinge", "squared"]
"""Two classes (logistic regression; L2 support vectors), or a scalar outcome (ridge regression)."""


MAX_STEPS = 100
SETTLED = 1e-18
"""Newton stops where half the squared step in the metric of the Hessian falls below this."""


@dataclass(frozen=True, eq=False)
class MarginQuery:
    """Loss, gradient and Hessian sums under given coefficients; the intercept stands first.

    Parameters
    ----------
    names, centres, scales, n_random, gamma, draw
        See `FeatureMap`.
    loss : {"logistic", "squared_hinge", "squared"}
    softness : float
        Of the squared hinge: 0 is the hinge itself, where cases beyond the margin count nothing. The cases that count
        are then a group for the small-cell rule, and a site with few of them refuses. Above 0 the hinge is
        ``softness * log(1 + exp((1 - margin) / softness))`` and every case counts.
    coefficients : ndarray of float64, shape (1 + n_outputs,)
    """

    kind: ClassVar[str] = "margins"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    centres: Matrix
    scales: Matrix
    n_random: int
    gamma: float
    draw: int
    loss: str
    softness: float
    coefficients: Matrix

    def __post_init__(self) -> None:
        if self.loss not in get_args(MarginLoss):
            raise ValueError(f"loss {self.loss!r}, expected one of {', '.join(get_args(MarginLoss))}")
        if self.coefficients.shape != (1 + self.map.n_outputs,) or self.softness < 0:
            raise ValueError(f"{self.coefficients.shape} coefficients do not fit, or softness is negative")

    @property
    def map(self) -> FeatureMap:
        return FeatureMap(self.names, self.centres, self.scales, self.n_random, self.gamma, self.draw)

    def summarise(self, cohort: Cohort) -> Sums:
        design, target, score = self._scored(cohort)
        losses, first, second = _derivatives(self.loss, score, target, self.softness)
        return {
            "cases": np.array([len(target)], dtype=np.int64),
            "response": np.array([target.sum()]),
            "loss": np.array([losses.sum()]),
            "gradient": design.T @ first,
            "hessian": (design * second[:, None]).T @ design,
        }

    def case_counts(self, cohort: Cohort) -> Indices:
        if self.loss != "squared_hinge" or self.softness > 0:
            return outcome_group_sizes(cohort, np.zeros(cohort.table.n_cases, dtype=np.int64), 1)
        _, target, score = self._scored(cohort)
        counts = (2 * target - 1) * score < 1
        groups = [counts[target == k] for k in (0.0, 1.0)]
        return np.array([[group.sum(), (~group).sum()] for group in groups], dtype=np.int64)

    def _scored(self, cohort: Cohort) -> tuple[Matrix, Matrix, Matrix]:
        if self.loss != "squared" and not isinstance(cohort.outcome, ClassOutcome):
            raise StatisticError(f"{self.loss} loss needs two classes, got {type(cohort.outcome).__name__}")
        if self.n_random and self.draw != cohort.seed:
            raise StatisticError(f"random features are drawn from the study's seed {cohort.seed}, got {self.draw}")
        mapped = self.map.apply(cohort.table)
        design = np.column_stack([np.ones(len(mapped)), mapped])
        score = design @ self.coefficients
        if self.loss != "squared":
            score = bounded_scores(score, advice="the features separate the classes; raise the penalty")
        return design, response(cohort), score


@dataclass(frozen=True, eq=False)
class MarginModel:
    """A fitted model.

    Parameters
    ----------
    names, centres, scales, n_random, gamma, draw
        See `FeatureMap`.
    intercept : float
    coefficients : ndarray of float64, shape (n_outputs,)
        Of the mapped features.
    covariance : ndarray of float64, shape (1 + n_outputs, 1 + n_outputs)
        Inverse of the Hessian of the summed objective, intercept first; for logistic loss without a penalty the
        covariance of the estimates.
    loss : {"logistic", "squared_hinge", "squared"}
    objective : float
    """

    names: tuple[str, ...]
    centres: Matrix
    scales: Matrix
    n_random: int
    gamma: float
    draw: int
    intercept: float
    coefficients: Matrix
    covariance: Matrix
    loss: str
    objective: float

    def __post_init__(self) -> None:
        n = self.map.n_outputs
        if self.coefficients.shape != (n,) or self.covariance.shape != (1 + n, 1 + n):
            raise ValueError(f"{self.coefficients.shape} coefficients do not fit {n} mapped features")
        if self.loss not in get_args(MarginLoss):
            raise ValueError(f"loss {self.loss!r}, expected one of {', '.join(get_args(MarginLoss))}")

    @property
    def map(self) -> FeatureMap:
        return FeatureMap(self.names, self.centres, self.scales, self.n_random, self.gamma, self.draw)

    def score(self, table: FeatureTable) -> Matrix:
        """Weighted sum (n_cases,): log odds, distance in units of the margin, or the predicted value."""
        return self.intercept + self.map.apply(table) @ self.coefficients

    def predict(self, table: FeatureTable) -> Matrix:
        """Probabilities (n_cases, 2), or for a scalar outcome the predicted values (n_cases, 1).

        Of support vectors only the order has a meaning until they are calibrated (`common.statistics.calibration`).
        """
        score = self.score(table)
        if self.loss == "squared":
            return score[:, None]
        return np.column_stack([scipy.special.expit(-score), scipy.special.expit(score)])


def ridge_logistic(names: Sequence[str], *, penalty: float) -> Procedure[MarginModel]:
    """Logistic regression of two classes; a penalty of 0 is maximum likelihood.

    Raises
    ------
    StatisticError
        Where a feature is constant or missing, a class is absent, or the features separate the classes (penalty 0).
    """
    feature_map = yield from standardised_map(names)
    return (yield from fit_margins(feature_map, "logistic", penalty=penalty))


def ridge_regression(names: Sequence[str], *, penalty: float) -> Procedure[MarginModel]:
    """Squared loss ``(y - score)^2 / 2`` for a scalar outcome; StatisticError as `ridge_logistic`."""
    feature_map = yield from standardised_map(names)
    return (yield from fit_margins(feature_map, "squared", penalty=penalty))


def linear_svm(names: Sequence[str], *, penalty: float, softness: float = 0.0) -> Procedure[MarginModel]:
    """Linear support vectors with squared hinge; see `MarginQuery` for ``softness``. StatisticError as above."""
    feature_map = yield from standardised_map(names)
    return (yield from fit_margins(feature_map, "squared_hinge", penalty=penalty, softness=softness))


def fit_margins(
    feature_map: FeatureMap, loss: MarginLoss, *, penalty: float, softness: float = 0.0
) -> Procedure[MarginModel]:
    """Minimise the objective over mapped features by Newton's method with halved steps."""
    if penalty < 0:
        raise StatisticError(f"a penalty is not negative, got {penalty}")
    ridge = np.r_[0.0, np.full(feature_map.n_outputs, penalty)]
    at, last, step = np.zeros(len(ridge)), math.inf, np.zeros(len(ridge))
    query = _query(feature_map, loss, softness, at)
    for _ in range(MAX_STEPS):
        sums = yield replace(query, coefficients=at)
        n = int(sums["cases"][0])
        _require_both_classes(loss, n, float(sums["response"][0]))
        objective = float(sums["loss"][0]) / n + float(ridge @ at**2) / 2
        if objective > last + 1e-12 * abs(last):
            step = step / 2
            at = at - step
            continue
        hessian = sums["hessian"] / n + np.diag(ridge)
        step = _newton_step(hessian, sums["gradient"] / n + ridge * at)
        last = objective
        if float(step @ hessian @ step) / 2 <= SETTLED * max(abs(objective), 1.0):
            covariance = np.linalg.inv(hessian).astype(np.float64) / n
            return _model(feature_map, at, covariance, loss, objective)
        at = at + step
    raise StatisticError(f"{loss} did not settle in {MAX_STEPS} steps; raise the penalty")


def _query(feature_map: FeatureMap, loss: str, softness: float, at: Matrix) -> MarginQuery:
    return MarginQuery(
        names=feature_map.names,
        centres=feature_map.centres,
        scales=feature_map.scales,
        n_random=feature_map.n_random,
        gamma=feature_map.gamma,
        draw=feature_map.draw,
        loss=loss,
        softness=softness,
        coefficients=at,
    )


def _model(feature_map: FeatureMap, at: Matrix, covariance: Matrix, loss: str, objective: float) -> MarginModel:
    return MarginModel(
        names=feature_map.names,
        centres=feature_map.centres,
        scales=feature_map.scales,
        n_random=feature_map.n_random,
        gamma=feature_map.gamma,
        draw=feature_map.draw,
        intercept=float(at[0]),
        coefficients=at[1:],
        covariance=covariance,
        loss=loss,
        objective=objective,
    )


def _require_both_classes(loss: str, n: int, total: float) -> None:
    if n == 0:
        raise StatisticError("no case to fit")
    if loss != "squared" and not 0 < total < n:
        raise StatisticError(f"two classes are needed: {total:g} events of {n} cases")


def _newton_step(hessian: Matrix, gradient: Matrix) -> Matrix:
    roots = np.linalg.eigvalsh(hessian)
    if roots[0] <= 1e-13 * roots[-1]:
        raise StatisticError("no unique solution: collinear features, or separated classes; raise the penalty")
    return -np.linalg.solve(hessian, gradient).astype(np.float64)


def _derivatives(loss: str, score: Matrix, target: Matrix, softness: float) -> tuple[Matrix, Matrix, Matrix]:
    """Loss of each case and its derivatives by the score, each (n_cases,)."""
    if loss == "squared":
        return (score - target) ** 2 / 2, score - target, np.ones(len(score))
    if loss == "logistic":
        p = scipy.special.expit(score)
        return np.logaddexp(0.0, score) - target * score, p - target, p * (1 - p)
    sign = 2 * target - 1
    if softness == 0:
        hinge = np.maximum(1 - sign * score, 0.0)
        return hinge**2, -2 * sign * hinge, np.where(hinge > 0, 2.0, 0.0)
    u = (1 - sign * score) / softness
    hinge, slope = softness * np.logaddexp(0.0, u), scipy.special.expit(u)
    curvature: Matrix = 2 * (slope**2 + hinge * slope * (1 - slope) / softness)
    return hinge**2, -2 * sign * hinge * slope, curvature
