"""LASSO and elastic net for squared loss over a whole penalty path, with federated cross-validation.

The objective is scikit-learn's: ``|y - b - X w|^2 / (2 n) + penalty (l1_ratio |w|_1 + (1 - l1_ratio) |w|^2 / 2)``. The
coordinator asks for rows of the Gram matrix as features enter: with the rows of every active feature known, the
gradient of *all* features is known too, so optimality over all features is checked without asking again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix
from common.statistics.coordinate_descent import minimise
from common.statistics.linear_sums import GramRowsQuery, LinearSumsQuery
from common.statistics.procedure import Procedure, Sums

ROWS_AT_ONCE = 64
"""Gram rows asked for in one question where fewer would do: rounds cost more than bytes."""

OPTIMAL = 1e-7
"""Features outside the active set may exceed the penalty by this share before they enter."""


@dataclass(frozen=True)
class PenaltySettings:
    """A path of penalties.

    Parameters
    ----------
    l1_ratio : float
        1 is LASSO; below 1 elastic net; must exceed 0.
    penalties : tuple of float
        Decreasing; empty for ``n_penalties`` from the smallest penalty with an empty model down to ``smallest`` of it.
    n_folds : int
        Cross-validation folds, drawn by case; 1 for none.
    """

    l1_ratio: float = 1.0
    penalties: tuple[float, ...] = ()
    n_penalties: int = 50
    smallest: float = 1e-2
    n_folds: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must lie in (0, 1], got {self.l1_ratio}")
        if not 0 < self.smallest < 1 or self.n_penalties < 1 or self.n_folds < 1:
            raise ValueError("smallest must lie in (0, 1), n_penalties and n_folds be positive")
        if list(self.penalties) != sorted(set(self.penalties), reverse=True) or not all(p > 0 for p in self.penalties):
            raise ValueError("penalties must be positive and decreasing")

    def path(self, largest: float) -> Matrix:
        """The penalties, given the smallest one that empties the model."""
        if self.penalties:
            return np.array(self.penalties)
        return largest * np.geomspace(1.0, self.smallest, self.n_penalties)


@dataclass(frozen=True, eq=False)
class PenaltyPath:
    """Models over a path of penalties.

    Parameters
    ----------
    names : tuple of str, length n_features
    penalties : ndarray of float64, shape (n_penalties,)
    coefficients : ndarray of float64, shape (n_penalties, n_features)
    intercepts : ndarray of float64, shape (n_penalties,)
    errors : ndarray of float64, shape (n_folds, n_penalties)
        Held-out mean loss of each fold; (0, n_penalties) without cross-validation.
    """

    names: tuple[str, ...]
    penalties: Matrix
    coefficients: Matrix
    intercepts: Matrix
    errors: Matrix

    @property
    def best(self) -> int:
        """Position of the penalty with the smallest mean held-out loss."""
        if not len(self.errors):
            raise StatisticError("the best penalty is known from cross-validation only; set n_folds")
        return int(np.argmin(self.errors.mean(axis=0)))

    @property
    def simplest(self) -> int:
        """Position of the largest penalty within one standard error of the best (Breiman et al. 1984)."""
        mean = self.errors.mean(axis=0)
        allowed = mean[self.best] + self.errors[:, self.best].std(ddof=1) / np.sqrt(len(self.errors))
        return int(np.flatnonzero(mean <= allowed)[0])

    def selected(self, position: int) -> tuple[str, ...]:
        """Names of the features with a non-zero coefficient."""
        return tuple(name for name, w in zip(self.names, self.coefficients[position], strict=True) if w != 0.0)


@dataclass(eq=False)
class _Problem:
    """One training set: sums about its own means, divided by its number of cases."""

    n: float
    feature_shift: Matrix
    response_shift: float
    linear: Matrix
    solution: Matrix
    gradient: Matrix


def lasso(names: Sequence[str], settings: PenaltySettings | None = None) -> Procedure[PenaltyPath]:
    """Fit squared loss (a scalar outcome, or 0 and 1 of two classes) over a path of penalties.

    Raises
    ------
    StatisticError
        Where a site holds missing values, a fold is empty, or the response does not vary.
    """
    names, settings = tuple(names), settings or PenaltySettings()
    k, p = settings.n_folds, len(names)
    first = yield LinearSumsQuery(names, k, np.zeros(p), 0.0)
    n = float(first["cases"].sum())
    if (first["cases"] == 0).any():
        raise StatisticError(f"{int(n)} cases do not fill {k} folds")
    centres, response_centre = first["features"].sum(axis=0) / n, float(first["response"].sum() / n)
    sums = yield LinearSumsQuery(names, k, centres, response_centre)
    held_out = [np.arange(k) == fold for fold in range(k)] if k > 1 else []
    training = [np.ones(k, dtype=bool), *(~fold for fold in held_out)]
    problems = [_problem(sums, folds) for folds in training]
    if sums["response_squares"].sum() <= 0.0:
        raise StatisticError("the response does not vary: nothing to fit")
    largest = float(np.abs(problems[0].linear).max()) / settings.l1_ratio
    penalties = settings.path(largest)
    known = np.zeros(0, dtype=np.int64)
    rows = np.zeros((k, 0, p))
    paths = np.zeros((len(problems), len(penalties), p))
    for position, penalty in enumerate(penalties):
        while True:
            wanted = _advance(problems, training, known, rows, float(penalty), settings.l1_ratio)
            if not wanted.size:
                break
            answer = yield GramRowsQuery(names, tuple(int(j) for j in wanted), k, centres)
            known, rows = np.concatenate([known, wanted]), np.concatenate([rows, answer["gram"]], axis=1)
        for i, problem in enumerate(problems):
            paths[i, position, known] = problem.solution
    errors = [
        _held_out_errors(paths[i + 1], problems[i + 1], sums, fold, known, rows) for i, fold in enumerate(held_out)
    ]
    shift = centres + problems[0].feature_shift
    intercepts = response_centre + problems[0].response_shift - paths[0] @ shift
    return PenaltyPath(names, penalties, paths[0], intercepts, np.array(errors).reshape(-1, len(penalties)))


def _problem(sums: Sums, folds: Matrix) -> _Problem:
    n = float(sums["cases"][folds].sum())
    feature_shift, response_shift = sums["features"][folds].sum(axis=0) / n, float(sums["response"][folds].sum() / n)
    linear = sums["products"][folds].sum(axis=0) / n - feature_shift * response_shift
    return _Problem(n, feature_shift, response_shift, linear, np.zeros(0), linear.copy())


def _advance(
    problems: list[_Problem], training: list[Matrix], known: Indices, rows: Matrix, penalty: float, l1_ratio: float
) -> Indices:
    """Solve every problem on the known features; the features whose Gram rows have to be asked for, or none."""
    l1, l2 = penalty * l1_ratio, penalty * (1 - l1_ratio)
    unknown = np.ones(len(problems[0].linear), dtype=bool)
    unknown[known] = False
    excess = np.zeros(unknown.size)
    for problem, folds in zip(problems, training, strict=True):
        gram = rows[folds].sum(axis=0) / problem.n - np.outer(problem.feature_shift[known], problem.feature_shift)
        start = np.zeros(known.size)
        start[: problem.solution.size] = problem.solution
        size = np.full(known.size, 1.0)
        problem.solution = minimise(gram[:, known], problem.linear[known], l1=l1 * size, l2=l2 * size, start=start)
        problem.gradient = problem.linear - problem.solution @ gram
        excess = np.maximum(excess, np.where(unknown, np.abs(problem.gradient) / l1, 0.0))
    violating = np.count_nonzero(excess > 1 + OPTIMAL)
    if not violating:
        return np.zeros(0, dtype=np.int64)
    wanted = np.argsort(-excess)[: max(violating, min(ROWS_AT_ONCE, np.count_nonzero(unknown)))]
    return np.sort(wanted).astype(np.int64)


def _held_out_errors(path: Matrix, problem: _Problem, sums: Sums, fold: Matrix, known: Indices, rows: Matrix) -> Matrix:
    """Mean squared error on a fold, at each penalty, from the fold's sums alone."""
    w = path[:, known]
    offset = problem.response_shift - path @ problem.feature_shift
    n = float(sums["cases"][fold].sum())
    gram, products = rows[fold][0][:, known], sums["products"][fold][0][known]
    features, target = sums["features"][fold][0][known], float(sums["response"][fold][0])
    squares = float(sums["response_squares"][fold][0])
    quadratic = np.einsum("li,ij,lj->l", w, gram, w)
    cross = -2 * w @ products - 2 * offset * target + 2 * offset * (w @ features) + n * offset**2
    errors: Matrix = (squares + quadratic + cross) / n
    return errors
