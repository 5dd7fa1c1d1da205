"""Coordinate descent for a quadratic with an elastic-net penalty: the inner solver of LASSO and logistic LASSO.

Friedman, Hastie and Tibshirani 2010, "Regularization paths for generalized linear models via coordinate descent",
Journal of Statistical Software 33(1). It sees Gram matrices only, never a row.
"""

from __future__ import annotations

import numpy as np

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
    from common.statistics.coordinate_sweeps import sweep

    solution, settled = sweep(np.ascontiguousarray(gram), linear, l1, l2, start.copy(), tolerance, MAX_SWEEPS)
    if not settled:
        raise StatisticError(f"coordinate descent did not settle in {MAX_SWEEPS} sweeps: raise the penalty")
    return np.asarray(solution)
