"""Coordinate descent for a quadratic with an elastic-net penalty: the inner solver of LASSO and logistic LASSO.

Friedman, Hastie and Tibshirani 2010, "Regularization paths for generalized linear models via coordinate descent",
Journal of Statistical Software 33(1). It sees Gram matrices only, never a row.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from common.errors import StatisticError
from common.statistics.columns import Matrix

MAX_SWEEPS = 100_000


def minimise(
    gram: Matrix, linear: Matrix, *, l1: Matrix, l2: Matrix, start: Matrix, tolerance: float = 1e-10
) -> Matrix:
    """The w that minimises ``w' gram w / 2 - linear' w + sum(l1 |w|) + sum(l2 w^2) / 2``.

    Parameters
    ----------
    gram : ndarray of float64, shape (p, p)
        Positive semi-definite.
    linear, l1, l2, start : ndarray of float64, shape (p,)
        ``l1`` and ``l2`` are penalties for each coefficient, 0 for one that is not penalised.
    tolerance : float
        Stops where no coefficient moves the fit by more than this share of what one coefficient could explain alone.

    Raises
    ------
    StatisticError
        Where it does not settle (features that are exact copies of one another, with too small a penalty).
    """
    if not linear.size:
        return start.copy()
    solution, settled = _sweep(np.ascontiguousarray(gram), linear, l1, l2, start.copy(), tolerance, MAX_SWEEPS)
    if not settled:
        raise StatisticError(f"coordinate descent did not settle in {MAX_SWEEPS} sweeps: raise the penalty")
    return np.asarray(solution)


@njit
def _sweep(gram, linear, l1, l2, w, tolerance, max_sweeps):  # type: ignore[no-untyped-def]  # compiled: types at run time
    """Sweeps over all coefficients, then over the non-zero ones until they settle, then over all again."""
    p = w.size
    gradient = linear - gram @ w
    scale = 0.0
    for j in range(p):
        if gram[j, j] + l2[j] > 0.0:
            scale = max(scale, abs(linear[j]) / np.sqrt(gram[j, j] + l2[j]))
    everything = True
    for _ in range(max_sweeps):
        moved = 0.0
        for j in range(p):
            curvature = gram[j, j] + l2[j]
            if curvature <= 0.0 or (not everything and w[j] == 0.0):
                continue
            pull = gradient[j] + gram[j, j] * w[j]
            size = abs(pull) - l1[j]
            new = 0.0
            if size > 0.0:
                new = size / curvature if pull > 0.0 else -size / curvature
            step = new - w[j]
            if step != 0.0:
                w[j] = new
                for i in range(p):
                    gradient[i] -= step * gram[j, i]
                moved = max(moved, abs(step) * np.sqrt(gram[j, j] + l2[j]))
        if moved <= tolerance * scale:
            if everything:
                return w, True
            everything = True
        else:
            everything = False
    return w, False
