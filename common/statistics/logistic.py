"""Logistic regression with an elastic-net penalty over a penalty path, with federated cross-validation.

Objective: ``mean(log loss) + penalty (l1_ratio |w|_1 + (1 - l1_ratio) |w|^2 / 2)``, the intercept free; scikit-learn's
with ``C = 1 / (penalty n)``. Each step is a proximal Newton step: sites send gradients and the Hessian of the working
features, the coordinator solves the quadratic by coordinate descent (Friedman et al. 2010). All training sets of the
cross-validation move in the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, complete_columns, fold_rows, response
from common.statistics.coordinate_descent import minimise
from common.statistics.lasso import PenaltyPath, PenaltySettings
from common.statistics.linear_sums import LinearSumsQuery, check_folds, check_positions
from common.statistics.outcome_groups import outcome_group_sizes
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.scores import bounded_scores

OPTIMAL = 1e-8
"""Largest violation of the optimality conditions, in units of the gradient of a standardised feature."""

MAX_STEPS = 60
STEEP = "coefficients this steep could single out cases; raise the penalty"


@dataclass(frozen=True, eq=False)
class LogisticQuery:
    """Loss, gradient and Hessian sums of each training set under given coefficients.

    Training set 0 holds all cases; with folds, set 1 + f holds the cases outside fold f.

    Parameters
    ----------
    names : tuple of str
    working : tuple of int
        Positions in ``names`` of the features that have a coefficient.
    n_folds : int
    centres : ndarray of float64, shape (n_features,)
    coefficients : ndarray of float64, shape (n_sets, len(working))
        On centred features.
    intercepts : ndarray of float64, shape (n_sets,)
    """

    kind: ClassVar[str] = "logistic"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    working: tuple[int, ...]
    n_folds: int
    centres: Matrix
    coefficients: Matrix
    intercepts: Matrix

    def __post_init__(self) -> None:
        check_folds(self.n_folds, self.names, self.centres)
        check_positions(self.working, len(self.names))
        n_sets = 1 + self.n_folds if self.n_folds > 1 else 1
        if self.coefficients.shape != (n_sets, len(self.working)) or self.intercepts.shape != (n_sets,):
            raise ValueError(f"coefficients {self.coefficients.shape} do not fit {n_sets} training sets")

    def summarise(self, cohort: Cohort) -> Sums:
        """As the class says; `StatisticError` for coefficients so steep that they could single out cases."""
        values = complete_columns(cohort.table, self.names) - self.centres
        target, folds = response(cohort), fold_rows(cohort, self.n_folds)
        active = np.column_stack([np.ones(len(values)), values[:, list(self.working)]])
        score = bounded_scores(active @ np.column_stack([self.intercepts, self.coefficients]).T, advice=STEEP)
        losses = np.logaddexp(0.0, score) - target[:, None] * score
        probability = scipy.special.expit(score)
        held_out = np.zeros(score.shape, dtype=bool)
        for fold in range(score.shape[1] - 1):
            held_out[:, 1 + fold] = folds == fold
        weight = np.where(held_out, 0.0, probability * (1 - probability))
        residual = np.where(held_out, 0.0, target[:, None] - probability)
        return {
            "cases": (~held_out).sum(axis=0).astype(np.int64),
            "loss": np.where(held_out, 0.0, losses).sum(axis=0),
            "held_out_loss": np.where(held_out, losses, 0.0).sum(axis=0),
            "gradient": residual.T @ values,
            "residual": residual.sum(axis=0),
            "hessian": np.stack([(active * weight[:, [s]]).T @ active for s in range(score.shape[1])]),
        }

    def case_counts(self, cohort: Cohort) -> Indices:
        return outcome_group_sizes(cohort, fold_rows(cohort, self.n_folds), self.n_folds)


@dataclass(eq=False)
class _State:
    """Where the training sets stand: (S,) intercepts and (S, F) coefficients on centred features, working features."""

    working: Indices
    intercepts: Matrix
    coefficients: Matrix

    def ask(self, names: tuple[str, ...], n_folds: int, centres: Matrix) -> LogisticQuery:
        active = tuple(int(j) for j in self.working)
        return LogisticQuery(names, active, n_folds, centres, self.coefficients[:, self.working], self.intercepts)


def logistic_lasso(names: Sequence[str], settings: PenaltySettings | None = None) -> Procedure[PenaltyPath]:
    """Fit two classes over a path of penalties.

    Raises
    ------
    StatisticError
        Where a training set has one class, a fold is empty, values are missing, or Newton's steps do not settle
        (classes that the features separate, with too small a penalty).
    """
    names, settings = tuple(names), settings or PenaltySettings(n_penalties=20)
    k, p = settings.n_folds, len(names)
    first = yield LinearSumsQuery(names, k, np.zeros(p), 0.0)
    cases, events = _set_totals(first["cases"]), _set_totals(first["response"])
    if (first["cases"] == 0).any() or ((events <= 0) | (events >= cases)).any():
        raise StatisticError(f"every training set needs both classes: events {events.tolist()} of {cases.tolist()}")
    centres = first["features"].sum(axis=0) / cases[0]
    second = yield LinearSumsQuery(names, k, centres, float(events[0] / cases[0]))
    largest = float(np.abs(second["products"].sum(axis=0)).max() / cases[0] / settings.l1_ratio)
    spread = float(np.abs(second["products"].sum(axis=0)).max() / cases[0])
    state = _State(np.zeros(0, dtype=np.int64), np.log(events / (cases - events)), np.zeros((len(cases), p)))
    penalties = settings.path(largest)
    paths, intercepts, errors = [], [], []
    previous, gradient = largest, np.zeros((len(cases), p))
    for penalty in penalties:
        l1 = float(penalty) * settings.l1_ratio
        strong = np.abs(gradient).max(axis=0) >= max(2 * l1 - previous * settings.l1_ratio, 0.5 * l1)
        active = state.coefficients.any(axis=0)
        state.working = np.flatnonzero(active | strong).astype(np.int64)
        sums = yield from _solve_penalty(state, names, settings, centres, float(penalty), spread)
        gradient, previous = sums["gradient"] / sums["cases"][:, None], float(penalty)
        paths.append(state.coefficients[0].copy())
        intercepts.append(float(state.intercepts[0] - state.coefficients[0] @ centres))
        held_out = first["cases"] if k > 1 else np.zeros(0)
        errors.append(sums["held_out_loss"][1:] / held_out)
    folds = np.array(errors).T.reshape(-1, len(penalties))
    return PenaltyPath(names, penalties, np.array(paths), np.array(intercepts), folds)


def _set_totals(by_fold: Matrix) -> Matrix:
    """Totals of each training set from totals of each fold."""
    total = by_fold.sum()
    return np.array([total] if len(by_fold) == 1 else [total, *(total - by_fold)], dtype=np.float64)


def _solve_penalty(
    state: _State, names: tuple[str, ...], settings: PenaltySettings, centres: Matrix, penalty: float, spread: float
) -> Procedure[Sums]:
    """Proximal Newton from the state until every training set is optimal over all features; the sums at the optimum."""
    l1, l2 = penalty * settings.l1_ratio, penalty * (1 - settings.l1_ratio)
    last: Matrix | None = None
    before = (state.intercepts.copy(), state.coefficients.copy())
    for _ in range(MAX_STEPS):
        sums = yield state.ask(names, settings.n_folds, centres)
        objective = sums["loss"] / sums["cases"]
        objective = (
            objective + l1 * np.abs(state.coefficients).sum(axis=1) + l2 / 2 * (state.coefficients**2).sum(axis=1)
        )
        gradient = sums["gradient"] / sums["cases"][:, None]
        gap = _violations(gradient - l2 * state.coefficients, state.coefficients, l1)
        entering = np.setdiff1d(np.flatnonzero(gap.max(axis=0) > OPTIMAL * spread), state.working)
        settled = gap.max(axis=1) <= OPTIMAL * spread
        settled &= np.abs(sums["residual"] / sums["cases"]) <= OPTIMAL
        if settled.all():
            return sums
        if last is not None and (worse := objective > last + 1e-12 * np.abs(last)).any():
            _step_back(state, before, worse)
            continue
        if entering.size:
            state.working = np.concatenate([state.working, entering])
            continue
        before, last = (state.intercepts.copy(), state.coefficients.copy()), objective
        _newton_step(state, sums, ~settled, l1, l2)
    raise StatisticError(f"logistic regression did not settle in {MAX_STEPS} steps at penalty {penalty:.3g}")


def _violations(gradient: Matrix, coefficients: Matrix, l1: float) -> Matrix:
    """Distance from optimality of each coefficient of each training set, (n_sets, n_features)."""
    at_zero = np.maximum(np.abs(gradient) - l1, 0.0)
    return np.where(coefficients == 0.0, at_zero, np.abs(gradient - l1 * np.sign(coefficients)))


def _step_back(state: _State, before: tuple[Matrix, Matrix], worse: Matrix) -> None:
    """Halve the last step of the training sets whose objective it raised."""
    state.intercepts[worse] = (state.intercepts[worse] + before[0][worse]) / 2
    state.coefficients[worse] = (state.coefficients[worse] + before[1][worse]) / 2


def _newton_step(state: _State, sums: Sums, moving: Matrix, l1: float, l2: float) -> None:
    """Minimise the penalised quadratic of each training set that moves."""
    penalised = np.r_[0.0, np.ones(len(state.working))]
    for s in np.flatnonzero(moving):
        n = float(sums["cases"][s])
        hessian = sums["hessian"][s] / n
        now = np.r_[state.intercepts[s], state.coefficients[s, state.working]]
        gradient = np.r_[sums["residual"][s], sums["gradient"][s, state.working]] / n
        solved = minimise(hessian, gradient + hessian @ now, l1=l1 * penalised, l2=l2 * penalised, start=now)
        state.intercepts[s], state.coefficients[s, state.working] = solved[0], solved[1:]
