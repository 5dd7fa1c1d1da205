"""Principal components from the merged covariance, or by subspace iteration where that is too large to send.

The full way sends the upper triangle of the covariance once. The randomised way (Halko, Martinsson and Tropp 2011,
"Finding structure with randomness", SIAM Review 53(2)) sends n_features x n_directions numbers a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.errors import StatisticError
from common.rng import generator
from common.statistics.columns import Indices, Matrix, complete_columns
from common.statistics.moments import Moments, moments
from common.statistics.procedure import Cohort, Procedure, Sums
from common.tables import FeatureTable

FULL_LIMIT = 2_000
"""Features up to which the whole covariance is merged (16 MB); above, subspace iteration is used."""

OVERSAMPLING = 20
POWER_ROUNDS = 8
"""Rounds of subspace iteration; leading components are then exact to 1e-6 where the spectrum falls by a tenth."""


@dataclass(frozen=True, eq=False)
class CovarianceQuery:
    """Upper triangle, row by row, of the products of features about given centres, shape (p (p + 1) / 2,)."""

    kind: ClassVar[str] = "covariance"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    centres: Matrix

    def __post_init__(self) -> None:
        if self.centres.shape != (len(self.names),):
            raise ValueError(f"centres {self.centres.shape} do not fit {len(self.names)} features")

    def summarise(self, cohort: Cohort) -> Sums:
        values = complete_columns(cohort.table, self.names) - self.centres
        products = values.T @ values
        return {"triangle": products[np.triu_indices(len(self.names))]}

    def case_counts(self, cohort: Cohort) -> Indices:
        return np.array([cohort.table.n_cases], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CovarianceProductQuery:
    """The same products times given directions (n_features, n_directions), without ever forming them."""

    kind: ClassVar[str] = "covariance_product"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    centres: Matrix
    directions: Matrix

    def __post_init__(self) -> None:
        if self.centres.shape != (len(self.names),) or self.directions.shape[:1] != (len(self.names),):
            raise ValueError(f"centres {self.centres.shape} and directions {self.directions.shape} do not fit")
        if self.directions.ndim != 2:
            raise ValueError("directions are the columns of a matrix")

    def summarise(self, cohort: Cohort) -> Sums:
        values = complete_columns(cohort.table, self.names) - self.centres
        return {"products": values.T @ (values @ self.directions)}

    def case_counts(self, cohort: Cohort) -> Indices:
        return np.array([cohort.table.n_cases], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Directions of largest variance.

    Parameters
    ----------
    names : tuple of str, length n_features
    centre : ndarray of float64, shape (n_features,)
    components : ndarray of float64, shape (n_components, n_features)
        Orthonormal rows; the entry of largest size in each is positive.
    variance : ndarray of float64, shape (n_components,)
        Explained by each (ddof 1), decreasing.
    total_variance : float
    """

    names: tuple[str, ...]
    centre: Matrix
    components: Matrix
    variance: Matrix
    total_variance: float

    def __post_init__(self) -> None:
        if self.components.shape != (len(self.variance), len(self.names)) or self.centre.shape != (len(self.names),):
            raise ValueError(f"components {self.components.shape} do not fit {len(self.names)} features")

    @property
    def explained(self) -> Matrix:
        """Share of the total variance of each component."""
        return self.variance / self.total_variance

    def apply(self, table: FeatureTable) -> FeatureTable:
        """Scores of the cases, one column a component, ``pca-1`` first."""
        scores = (complete_columns(table, self.names) - self.centre) @ self.components.T
        return FeatureTable(scores, tuple(f"pca-{i + 1}" for i in range(len(self.components))), table.case_ids)


def principal_components(names: Sequence[str], n_components: int) -> Procedure[PrincipalComponents]:
    """Leading components of the features over all cases of all sites, equal to those of the pooled rows.

    Above `FULL_LIMIT` features this is `randomised_components` with a fixed seed.

    Raises
    ------
    StatisticError
        Where more components are asked for than cases and features allow, or the features do not vary.
    """
    names = tuple(names)
    if len(names) > FULL_LIMIT:
        return (yield from randomised_components(names, n_components, seed=0))
    learned = yield from moments(names)
    _check(learned, n_components)
    sums = yield CovarianceQuery(names, learned.mean)
    covariance = np.zeros((len(names), len(names)))
    covariance[np.triu_indices(len(names))] = sums["triangle"] / (learned.n_cases - 1)
    covariance = np.triu(covariance) + np.triu(covariance, 1).T
    return _leading(learned, np.eye(len(names)), covariance, n_components)


def randomised_components(names: Sequence[str], n_components: int, *, seed: int) -> Procedure[PrincipalComponents]:
    """As `principal_components`, by subspace iteration from random directions of ``seed``."""
    names = tuple(names)
    learned = yield from moments(names)
    _check(learned, n_components)
    width = min(n_components + OVERSAMPLING, len(names))
    basis = np.linalg.qr(generator(seed, "pca").normal(size=(len(names), width)))[0]
    for _ in range(POWER_ROUNDS):
        sums = yield CovarianceProductQuery(names, learned.mean, basis)
        basis = np.linalg.qr(sums["products"])[0]
    sums = yield CovarianceProductQuery(names, learned.mean, basis)
    projected = basis.T @ sums["products"] / (learned.n_cases - 1)
    return _leading(learned, basis, (projected + projected.T) / 2, n_components)


def _check(learned: Moments, n_components: int) -> None:
    most = min(learned.n_cases - 1, len(learned.names))
    if not 1 <= n_components <= most:
        raise StatisticError(f"{n_components} components of {learned.n_cases} cases and {len(learned.names)} features")
    if learned.constant.all():
        raise StatisticError("no feature varies: there are no principal components")


def _leading(learned: Moments, basis: Matrix, symmetric: Matrix, n_components: int) -> PrincipalComponents:
    """Eigenvectors of ``symmetric`` (in ``basis``) with the largest eigenvalues."""
    values, vectors = np.linalg.eigh(symmetric)
    leading = np.argsort(values)[::-1][:n_components]
    components = (basis @ vectors[:, leading]).T
    peak = components[np.arange(n_components), np.abs(components).argmax(axis=1)]
    components = components * np.sign(peak)[:, None]
    total = float(learned.m2.sum() / (learned.n_cases - 1))
    return PrincipalComponents(learned.names, learned.mean, components, np.maximum(values[leading], 0.0), total)
