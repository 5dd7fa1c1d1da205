"""Covariates that harmonisation keeps: how a study names them and how a site codes them into columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, class_labels, complete_columns
from common.statistics.procedure import Cohort

COLLINEAR = 1e-10
"""A covariate is collinear where what batches and earlier covariates leave unexplained is below this share of it."""


@dataclass(frozen=True)
class Covariates:
    """Clinical columns whose effect on the features is kept.

    Parameters
    ----------
    continuous : tuple of str
        Clinical columns taken as numbers.
    categorical : tuple of str
        Clinical columns taken as codes; the first level is the baseline.
    level_counts : tuple of int
        Number of levels of each categorical column.
    levels : tuple of float
        The agreed codes, one categorical column after the other.
    classes : tuple of str
        Outcome classes kept as a covariate; empty (the rule) where the outcome is not looked at.
    """

    continuous: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    level_counts: tuple[int, ...] = ()
    levels: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.level_counts) != len(self.categorical) or sum(self.level_counts) != len(self.levels):
            raise ValueError(f"levels {self.level_counts} do not fit categorical covariates {self.categorical}")
        if any(count < 2 for count in self.level_counts):
            raise ValueError("a categorical covariate has at least 2 levels")
        twice = set(self.continuous) & set(self.categorical)
        if twice:
            raise ValueError(f"covariates given as continuous and categorical: {', '.join(sorted(twice))}")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the coded columns, in the order categorical, continuous, outcome."""
        coded = [f"{name}={level:g}" for name, levels in self._by_column() for level in levels[1:]]
        return (*coded, *self.continuous, *(f"outcome={name}" for name in self.classes[1:]))

    @property
    def clinical_columns(self) -> tuple[str, ...]:
        return self.categorical + self.continuous

    def code(self, cohort: Cohort) -> Matrix:
        """Coded columns (n_cases, len(column_names)).

        Raises
        ------
        StatisticError
            Where a column or value is missing, or a code is not among the agreed levels.
        """
        blocks = [np.zeros((cohort.table.n_cases, 0))]
        for name, levels in self._by_column():
            blocks.append(self._member(cohort, name, levels)[:, 1:])
        blocks.append(complete_columns(cohort.clinical, self.continuous))
        if self.classes:
            blocks.append(self._outcome_member(cohort)[:, 1:])
        return np.hstack(blocks)

    def cell_sizes(self, cohort: Cohort, batch_member: Matrix) -> Indices:
        """Cases of each batch in each level of each categorical covariate and class; what the Gram matrix counts."""
        members = [self._member(cohort, name, levels) for name, levels in self._by_column()]
        if self.classes:
            members.append(self._outcome_member(cohort))
        cells = [(batch_member.T @ member).ravel() for member in members]
        return np.concatenate([batch_member.sum(axis=0), *cells]).astype(np.int64)

    def _by_column(self) -> list[tuple[str, tuple[float, ...]]]:
        ends = np.cumsum((0, *self.level_counts))
        return [(name, self.levels[ends[i] : ends[i + 1]]) for i, name in enumerate(self.categorical)]

    def _member(self, cohort: Cohort, name: str, levels: Sequence[float]) -> Matrix:
        values = complete_columns(cohort.clinical, (name,))
        member: Matrix = (values == np.asarray(levels)[None, :]).astype(np.float64)
        stray = np.unique(values[member.sum(axis=1) == 0])
        if stray.size:
            raise StatisticError(f"covariate {name}: codes {stray[:5].tolist()} are not among {list(levels)}")
        return member

    def _outcome_member(self, cohort: Cohort) -> Matrix:
        labels, classes = class_labels(cohort)
        if classes != self.classes:
            raise StatisticError(f"classes {classes} at this site, the study agreed on {self.classes}")
        member: Matrix = (labels[:, None] == np.arange(len(classes))[None, :]).astype(np.float64)
        return member


def refuse_collinear(within: Matrix, names: Sequence[str]) -> None:
    """Raise where a covariate is a linear combination of the batches and earlier covariates.

    Parameters
    ----------
    within : ndarray of float64, shape (n_covariates, n_covariates)
        Sums of products of the covariates, centred within batches, in units of their total spread.
    names : sequence of str
    """
    kept: list[int] = []
    collinear = []
    for j, name in enumerate(names):
        explained = 0.0
        if kept:
            weights = np.linalg.solve(within[np.ix_(kept, kept)], within[kept, j])
            explained = float(within[j, kept] @ weights)
        if within[j, j] - explained <= COLLINEAR:
            collinear.append(name)
        else:
            kept.append(j)
    if collinear:
        raise StatisticError(
            f"collinear covariates: {', '.join(collinear)} follow from the batches and the other covariates "
            f"({', '.join(names[j] for j in kept) or 'none'}); leave them out or merge batches"
        )
