"""Sums of squares and products of features and response, by cross-validation fold: all that squared loss needs.

Gram rows are asked for a block of columns at a time, so a LASSO with 100 active of 2,000 features moves 100 rows, not
the 2,000 x 2,000 matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.statistics.columns import Indices, Matrix, complete_columns, fold_rows, indicator, response, sizes
from common.statistics.outcome_groups import outcome_group_sizes
from common.statistics.procedure import Cohort, Sums

MAX_FOLDS = 100


@dataclass(frozen=True, eq=False)
class LinearSumsQuery:
    """First and second sums of features and response about given centres, for each fold.

    Parameters
    ----------
    names : tuple of str
    n_folds : int
        1 for no cross-validation.
    centres : ndarray of float64, shape (n_features,)
    response_centre : float
    """

    kind: ClassVar[str] = "linear_sums"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    n_folds: int
    centres: Matrix
    response_centre: float

    def __post_init__(self) -> None:
        check_folds(self.n_folds, self.names, self.centres)

    def summarise(self, cohort: Cohort) -> Sums:
        member = indicator(fold_rows(cohort, self.n_folds), self.n_folds)
        values = complete_columns(cohort.table, self.names) - self.centres
        target = response(cohort) - self.response_centre
        return {
            "cases": member.sum(axis=0).astype(np.int64),
            "features": member.T @ values,
            "response": member.T @ target,
            "products": member.T @ (values * target[:, None]),
            "response_squares": member.T @ target**2,
        }

    def case_counts(self, cohort: Cohort) -> Indices:
        return outcome_group_sizes(cohort, fold_rows(cohort, self.n_folds), self.n_folds)


@dataclass(frozen=True, eq=False)
class GramRowsQuery:
    """Products of some features with all features about given centres, for each fold: (n_folds, n_rows, n_features).

    Parameters
    ----------
    rows : tuple of int
        Positions in ``names`` of the features whose rows are wanted.
    """

    kind: ClassVar[str] = "gram_rows"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    rows: tuple[int, ...]
    n_folds: int
    centres: Matrix

    def __post_init__(self) -> None:
        check_folds(self.n_folds, self.names, self.centres)
        check_positions(self.rows, len(self.names))

    def summarise(self, cohort: Cohort) -> Sums:
        values = complete_columns(cohort.table, self.names) - self.centres
        folds = fold_rows(cohort, self.n_folds)
        gram = np.empty((self.n_folds, len(self.rows), len(self.names)))
        for fold in range(self.n_folds):
            block = values if self.n_folds == 1 else values[folds == fold]
            gram[fold] = block[:, list(self.rows)].T @ block
        return {"gram": gram}

    def case_counts(self, cohort: Cohort) -> Indices:
        return sizes(fold_rows(cohort, self.n_folds), self.n_folds)


def check_folds(n_folds: int, names: tuple[str, ...], centres: Matrix) -> None:
    """Raise ValueError for an impossible number of folds or centres of another shape."""
    if not 1 <= n_folds <= MAX_FOLDS:
        raise ValueError(f"folds must lie in 1..{MAX_FOLDS}, got {n_folds}")
    if centres.shape != (len(names),):
        raise ValueError(f"centres {centres.shape} do not fit {len(names)} features")


def check_positions(positions: tuple[int, ...], n_features: int) -> None:
    """Raise ValueError for positions that are repeated or outside the features."""
    if len(set(positions)) != len(positions) or not all(0 <= j < n_features for j in positions):
        raise ValueError(f"positions must be different and lie in 0..{n_features - 1}")
