"""Counts, means, variances and missingness of features, and what is learned from them: imputation and scaling.

Two passes over sums (first the means, then sums centred on them) give the digits of a two-pass variance on pooled rows;
no minimum or maximum leaves a site. `Moments` is also a value that merges by itself (Chan, Golub and LeVeque 1979,
"Updating formulae and a pairwise algorithm for computing sample variances"), for data that are read in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from common.errors import StatisticError
from common.statistics.columns import ALL_CASES, Grouping, Indices, Matrix, columns, group_rows, indicator, listed
from common.statistics.procedure import Cohort, Procedure, Sums
from common.tables import FeatureTable

CONSTANT_TOLERANCE = 1e-12
"""A feature is constant where its standard deviation is below this fraction of its mean's size."""


@dataclass(frozen=True, eq=False)
class MomentQuery:
    """Sums over the present values, by group: how many, and the powers 1..``order`` of their distance to ``centres``.

    Parameters
    ----------
    names : tuple of str
        Features.
    by : {"all", "class", "batch"}
        Which rows are summed together.
    groups : tuple of str
        The agreed groups, in order; ``("all",)`` for all cases.
    centres : ndarray of float64, shape (n_groups, n_features)
        Subtracted before powers are taken.
    order : int
        1 (sums), or 2 (sums and sums of squares).
    """

    kind: ClassVar[str] = "moments"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    by: str
    groups: tuple[str, ...]
    centres: Matrix
    order: int

    def __post_init__(self) -> None:
        if self.centres.shape != (len(self.groups), len(self.names)):
            raise ValueError(f"centres {self.centres.shape} do not fit {len(self.groups)} groups x {len(self.names)}")
        if self.order not in (1, 2):
            raise ValueError(f"order is 1 or 2, got {self.order}")

    def summarise(self, cohort: Cohort) -> Sums:
        values = columns(cohort.table, self.names)
        rows = group_rows(cohort, self.by, self.groups)
        member = indicator(rows, len(self.groups))
        present = ~np.isnan(values)
        distance = np.where(present, values - self.centres[rows], 0.0)
        sums = {
            "cases": member.sum(axis=0).astype(np.int64),
            "present": (member.T @ present).astype(np.int64),
            "power_1": member.T @ distance,
        }
        if self.order == 2:
            sums["power_2"] = member.T @ distance**2
        return sums

    def case_counts(self, cohort: Cohort) -> Indices:
        present = ~np.isnan(columns(cohort.table, self.names))
        member = indicator(group_rows(cohort, self.by, self.groups), len(self.groups))
        n_present = (member.T @ present).astype(np.int64)
        n_cases = member.sum(axis=0).astype(np.int64)[:, None]
        return np.concatenate([n_cases, n_present, n_cases - n_present], axis=1)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred sum of squares of each feature over the cases where it is present.

    Parameters
    ----------
    names : tuple of str, length n_features
    n_cases : int
        Cases looked at, present or not.
    present : ndarray of int64, shape (n_features,)
        Cases in which the feature is present.
    mean : ndarray of float64, shape (n_features,)
        0 where no case has the feature: `mean` is undefined there, see `require_present`.
    m2 : ndarray of float64, shape (n_features,)
        Sum of squared distances to the mean.
    """

    names: tuple[str, ...]
    n_cases: int
    present: Indices
    mean: Matrix
    m2: Matrix

    @classmethod
    def of(cls, table: FeatureTable) -> Moments:
        """Moments of the rows of one table."""
        present = ~np.isnan(table.values)
        n = present.sum(axis=0)
        safe = np.maximum(n, 1)
        first = np.where(present, table.values, 0.0).sum(axis=0) / safe
        distance = np.where(present, table.values - first, 0.0)
        shift = distance.sum(axis=0) / safe
        m2 = np.maximum((distance**2).sum(axis=0) - n * shift**2, 0.0)
        return cls(table.names, table.n_cases, n.astype(np.int64), first + shift, m2)

    def merge(self, other: Moments) -> Moments:
        """Moments of the rows of both, without either's rows."""
        if self.names != other.names:
            raise StatisticError("moments of different features cannot be merged")
        n = self.present + other.present
        safe = np.maximum(n, 1)
        step = other.mean - self.mean
        mean = np.where(self.present == 0, other.mean, self.mean + step * other.present / safe)
        cross = np.where((self.present > 0) & (other.present > 0), step**2 * self.present * other.present / safe, 0.0)
        return Moments(self.names, self.n_cases + other.n_cases, n, mean, self.m2 + other.m2 + cross)

    @property
    def missing(self) -> Indices:
        """Cases without the feature (n_features,)."""
        return self.n_cases - self.present

    def variance(self, *, ddof: int = 1) -> Matrix:
        """Variance (n_features,).

        Raises
        ------
        StatisticError
            Where a feature is present in too few cases, by name.
        """
        short = np.flatnonzero(self.present <= ddof)
        if short.size:
            raise StatisticError(f"variance of {listed(self.names, short)} needs more than {ddof} present values")
        return self.m2 / (self.present - ddof)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Features whose present values do not differ beyond rounding (n_features,)."""
        spread = np.sqrt(self.m2 / np.maximum(self.present, 1))
        return spread <= CONSTANT_TOLERANCE * np.maximum(np.abs(self.mean), np.finfo(np.float64).tiny)

    def require_present(self) -> Moments:
        """Itself; StatisticError with the names of features that no case has (an all-missing column)."""
        empty = np.flatnonzero(self.present == 0)
        if empty.size:
            raise StatisticError(f"no case has a value of {listed(self.names, empty)}; drop these features")
        return self


def grouped_moments(names: Sequence[str], *, by: Grouping, groups: Sequence[str]) -> Procedure[tuple[Moments, ...]]:
    """Moments of each group of cases, in the order of ``groups``: two questions to every site."""
    names, groups = tuple(names), tuple(groups)
    zeros = np.zeros((len(groups), len(names)))
    sums = yield MomentQuery(names, by, groups, zeros, order=1)
    centres = sums["power_1"] / np.maximum(sums["present"], 1)
    sums = yield MomentQuery(names, by, groups, centres, order=2)
    safe = np.maximum(sums["present"], 1)
    shift = sums["power_1"] / safe
    m2 = np.maximum(sums["power_2"] - sums["power_1"] * shift, 0.0)
    return tuple(
        Moments(names, int(sums["cases"][g]), sums["present"][g], centres[g] + shift[g], m2[g])
        for g in range(len(groups))
    )


def moments(names: Sequence[str]) -> Procedure[Moments]:
    """Moments of the features over all cases of all sites, equal to those of the pooled rows."""
    (whole,) = yield from grouped_moments(names, by="all", groups=ALL_CASES)
    return whole


ConstantPolicy = Literal["refuse", "keep"]


@dataclass(frozen=True, eq=False)
class Scaler:
    """Affine standardisation of features: ``(x - location) / scale``; missing stays missing.

    ``constant`` names the features that were constant over the study: their scale is 1, so they become 0.
    """

    names: tuple[str, ...]
    location: Matrix
    scale: Matrix
    constant: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.location.shape != (len(self.names),) or self.scale.shape != (len(self.names),):
            raise ValueError(
                f"location {self.location.shape} and scale {self.scale.shape} do not fit {len(self.names)}"
            )
        if not (self.scale > 0).all():
            raise ValueError("scales must be positive")

    @classmethod
    def standard(cls, learned: Moments, *, constant: ConstantPolicy = "refuse") -> Scaler:
        """Mean 0 and standard deviation 1 (ddof 0, as scikit-learn's StandardScaler).

        Parameters
        ----------
        constant : {"refuse", "keep"}
            What to do with a feature that is constant over all sites: raise with its name, or keep it as zeros.
        """
        learned.require_present()
        flat = np.flatnonzero(learned.constant)
        if flat.size and constant == "refuse":
            raise StatisticError(f"constant over all sites: {listed(learned.names, flat)}; filter by variance first")
        scale = np.sqrt(learned.m2 / learned.present)
        scale[flat] = 1.0
        return cls(learned.names, learned.mean, scale, tuple(learned.names[j] for j in flat))

    def apply(self, table: FeatureTable) -> FeatureTable:
        """The table's columns of this scaler, in the scaler's order, standardised."""
        values = columns(table, self.names)
        return FeatureTable((values - self.location) / self.scale, self.names, table.case_ids)


@dataclass(frozen=True, eq=False)
class Imputer:
    """One value a feature that takes the place of missing ones.

    Learned from merged statistics of the training cases: `mean` here, `median_imputer` and `mode_imputer` in
    `common.statistics.quantiles`.
    """

    names: tuple[str, ...]
    fill: Matrix

    def __post_init__(self) -> None:
        if self.fill.shape != (len(self.names),) or not np.isfinite(self.fill).all():
            raise StatisticError(f"an imputer needs one finite value for each of {len(self.names)} features")

    @classmethod
    def mean(cls, learned: Moments) -> Imputer:
        return cls(learned.names, learned.require_present().mean)

    def apply(self, table: FeatureTable) -> FeatureTable:
        """The table's columns of this imputer, in the imputer's order, without missing values."""
        values = columns(table, self.names)
        return FeatureTable(np.where(np.isnan(values), self.fill, values), self.names, table.case_ids)
