"""How well features give their batch away, before and after harmonisation.

Two measures: the share of each feature's variance that lies between batches, and the balanced accuracy with which a
linear discriminant recognises the batch of cases it was not fitted on. The discriminant is fitted from merged sums
(Fisher 1936, with the within-batch covariance shrunk towards its diagonal); a site classifies its own held-out cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, complete_columns, fold_rows, group_rows, indicator, sizes
from common.statistics.linear_sums import GramRowsQuery, check_folds
from common.statistics.moments import Moments, grouped_moments
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.selection_tests import between_and_within

SHRINKAGE = 0.1
"""Weight of the diagonal in the within-batch covariance."""

MOST_FEATURES = 300
"""Features of the discriminant: the covariance of more would be the largest thing that travels."""


@dataclass(frozen=True, eq=False)
class FoldBatchQuery:
    """Cases and feature sums of each fold and batch, about given centres."""

    kind: ClassVar[str] = "fold_batch"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    batches: tuple[str, ...]
    n_folds: int
    centres: Matrix

    def __post_init__(self) -> None:
        check_folds(self.n_folds, self.names, self.centres)

    def summarise(self, cohort: Cohort) -> Sums:
        cell = _cells(cohort, self.batches, self.n_folds)
        member = indicator(cell, self.n_folds * len(self.batches))
        sums = member.T @ (complete_columns(cohort.table, self.names) - self.centres)
        shape = (self.n_folds, len(self.batches))
        return {"cases": member.sum(axis=0).astype(np.int64).reshape(shape), "sums": sums.reshape(*shape, -1)}

    def case_counts(self, cohort: Cohort) -> Indices:
        return sizes(_cells(cohort, self.batches, self.n_folds), self.n_folds * len(self.batches))


@dataclass(frozen=True, eq=False)
class RecognitionQuery:
    """Of each batch, how many cases the discriminant recognised that was fitted without their fold: [hits, cases].

    Parameters
    ----------
    weights : ndarray of float64, shape (n_folds, n_features, n_batches)
    offsets : ndarray of float64, shape (n_folds, n_batches)
    """

    kind: ClassVar[str] = "recognition"
    cumulative: ClassVar[tuple[str, ...]] = ("counts",)
    names: tuple[str, ...]
    batches: tuple[str, ...]
    n_folds: int
    centres: Matrix
    weights: Matrix
    offsets: Matrix

    def __post_init__(self) -> None:
        check_folds(self.n_folds, self.names, self.centres)
        expected = (self.n_folds, len(self.names), len(self.batches))
        if self.weights.shape != expected or self.offsets.shape != (self.n_folds, len(self.batches)):
            raise ValueError(f"weights {self.weights.shape} do not fit {expected}")

    def summarise(self, cohort: Cohort) -> Sums:
        values = complete_columns(cohort.table, self.names) - self.centres
        rows, folds = group_rows(cohort, "batch", self.batches), fold_rows(cohort, self.n_folds)
        hit = np.zeros(len(values), dtype=bool)
        for fold in range(self.n_folds):
            held_out = folds == fold
            score = values[held_out] @ self.weights[fold] + self.offsets[fold]
            hit[held_out] = score.argmax(axis=1) == rows[held_out]
        hits = np.bincount(rows[hit], minlength=len(self.batches))
        return {"counts": np.stack([hits, sizes(rows, len(self.batches))], axis=1).astype(np.int64)}

    def case_counts(self, cohort: Cohort) -> Indices:
        return sizes(group_rows(cohort, "batch", self.batches), len(self.batches))


@dataclass(frozen=True, eq=False)
class BatchEffect:
    """How much batches differ.

    Parameters
    ----------
    names : tuple of str, length n_features
    between_share : ndarray of float64, shape (n_features,)
        Share of each feature's variance between batches (eta squared).
    p_value : ndarray of float64, shape (n_features,)
        Of the analysis of variance of the feature by batch.
    accuracy : float
        Balanced accuracy of recognising the batch of held-out cases.
    chance : float
        One over the number of batches.
    """

    names: tuple[str, ...]
    between_share: Matrix
    p_value: Matrix
    accuracy: float
    chance: float

    def sentence(self) -> str:
        """One line of the report."""
        return (
            f"batches explain {np.median(self.between_share):.1%} of a feature's variance (median), "
            f"{np.mean(self.p_value < 0.05):.0%} of {len(self.names)} features differ at p < 0.05, and the batch is "
            f"recognised with balanced accuracy {self.accuracy:.2f} (chance {self.chance:.2f})"
        )


def batch_effect(
    names: Sequence[str], batches: Sequence[str], *, n_folds: int = 3, recognised_by: Sequence[str] = ()
) -> Procedure[BatchEffect]:
    """Measure the effect of batches on features.

    Parameters
    ----------
    recognised_by : sequence of str
        Features of the discriminant, the same before and after; all of ``names`` where empty (at most `MOST_FEATURES`).

    Raises
    ------
    StatisticError
        Where a batch has too few cases for the folds, too many features are asked for, or a feature is constant.
    """
    names, batches = tuple(names), tuple(batches)
    chosen = tuple(recognised_by) or names
    if len(chosen) > MOST_FEATURES or n_folds < 2:
        raise StatisticError(
            f"a discriminant of {len(chosen)} features in {n_folds} folds; give 1..{MOST_FEATURES}, 2.."
        )
    groups = yield from grouped_moments(names, by="batch", groups=batches)
    between, within, n = between_and_within(groups)
    freedom = len(batches) - 1, n - len(batches)
    if (within <= 0).any() or (freedom[1] <= 0).any():
        flat = [name for name, value in zip(names, within, strict=True) if value <= 0]
        raise StatisticError(f"no variation within batches: {', '.join(flat[:5])}; filter by variance first")
    f = (between / freedom[0]) / (within / freedom[1])
    p_value = np.asarray(scipy.special.fdtrc(*freedom, f), dtype=np.float64)
    accuracy = yield from _recognition(groups, chosen, batches, n_folds)
    return BatchEffect(names, between / (between + within), p_value, accuracy, 1 / len(batches))


def _recognition(
    groups: Sequence[Moments], chosen: tuple[str, ...], batches: tuple[str, ...], n_folds: int
) -> Procedure[float]:
    """Balanced accuracy of discriminants fitted without each fold."""
    columns = [groups[0].names.index(name) for name in chosen]
    present = np.array([group.present[columns] for group in groups])
    centres = (present * np.array([group.mean[columns] for group in groups])).sum(axis=0) / present.sum(axis=0)
    totals = yield FoldBatchQuery(chosen, batches, n_folds, centres)
    gram = yield GramRowsQuery(chosen, tuple(range(len(chosen))), n_folds, centres)
    weights, offsets = [], []
    for fold in range(n_folds):
        others = np.arange(n_folds) != fold
        cases, sums = totals["cases"][others].sum(axis=0), totals["sums"][others].sum(axis=0)
        if (cases < 2).any():
            few = [f"{name} ({n})" for name, n in zip(batches, cases, strict=True) if n < 2]
            raise StatisticError(f"batches with fewer than 2 cases outside a fold: {', '.join(few)}; use fewer folds")
        means = sums / cases[:, None]
        scatter = gram["gram"][others].sum(axis=0) - (means.T * cases) @ means
        slope, offset = _discriminant(means, scatter / max(cases.sum() - len(batches), 1))
        weights.append(slope)
        offsets.append(offset)
    found = yield RecognitionQuery(chosen, batches, n_folds, centres, np.array(weights), np.array(offsets))
    return float(np.mean(found["counts"][:, 0] / found["counts"][:, 1]))


def _discriminant(means: Matrix, covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Linear scores of batches of equal prior: slopes (n_features, n_batches) and offsets (n_batches,)."""
    spread = np.sqrt(np.maximum(np.diag(covariance), np.finfo(np.float64).tiny))
    correlation = covariance / np.outer(spread, spread)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(spread))
    slope = np.linalg.solve(shrunk, (means / spread).T) / spread[:, None]
    return slope, -0.5 * (means * slope.T).sum(axis=1)


def _cells(cohort: Cohort, batches: tuple[str, ...], n_folds: int) -> Indices:
    """Position of each case in (fold, batch), counted fold by fold."""
    return fold_rows(cohort, n_folds) * len(batches) + group_rows(cohort, "batch", batches)
