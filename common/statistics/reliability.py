"""Intraclass correlation of repeated measurements, from sums that merge over sites.

Each case i is measured k times, x_ij. The site's half turns these into plain columns: the case's mean m_i, and the
deviations d_ij = x_ij - m_i. Their counts, means and squares, asked like those of any feature, give the mean squares:

    between cases    MSB = k sum_i (m_i - m)^2 / (n - 1)
    within cases     MSW = sum_ij d_ij^2 / (n (k - 1))
    residual         MSE = (sum_ij d_ij^2 - n sum_j mean_i(d_ij)^2) / ((n - 1)(k - 1))

ICC(1,1) = (MSB - MSW) / (MSB + (k-1) MSW) and ICC(3,1) likewise with MSE (Shrout and Fleiss 1979,
doi 10.1037/0033-2909.86.2.420); intervals after McGraw and Wong 1996, doi 10.1037/1082-989X.1.1.30, table 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import StatisticError
from common.statistics.moments import CONSTANT_TOLERANCE, Moments, moments
from common.statistics.procedure import Procedure
from common.tables import FeatureTable

Vector = npt.NDArray[np.float64]
Model = Literal["1,1", "3,1"]

SMALLEST_N = 2
"""Cases without which there is nothing between them to compare."""


@dataclass(frozen=True)
class FeatureReliability:
    """The intraclass correlation of one feature and its interval, from ``n_cases`` cases."""

    feature: str
    icc: float
    lower: float
    upper: float
    n_cases: int


@dataclass(frozen=True)
class Reliability:
    """Reliability of features, in their order.

    Parameters
    ----------
    features : tuple of FeatureReliability
        Those whose correlation is defined.
    undefined : tuple of str
        Features that did not vary at all, or were present in fewer than two cases.
    """

    features: tuple[FeatureReliability, ...]
    undefined: tuple[str, ...]

    def keep(self, *, minimum: float, decides: Literal["lower", "point"]) -> tuple[str, ...]:
        """Names of the features whose interval's lower end, or point estimate, reaches ``minimum``."""
        return tuple(f.feature for f in self.features if (f.lower if decides == "lower" else f.icc) >= minimum)


def reliability_names(features: Sequence[str], n_repeats: int) -> tuple[str, ...]:
    """Columns that the site's half makes: the mean of each feature, then its deviations, repeat by repeat."""
    if n_repeats < 2:
        raise ValueError(f"reliability needs at least 2 measurements of a case, got {n_repeats}")
    means = [f"{feature}|mean" for feature in features]
    return (*means, *(f"{feature}|deviation-{j}" for j in range(n_repeats) for feature in features))


def reliability_table(values: Vector, features: Sequence[str], case_ids: Sequence[str]) -> FeatureTable:
    """The rows that a site puts under the question.

    Parameters
    ----------
    values : ndarray of float64, shape (n_cases, n_repeats, n_features)
        NaN in one repeat takes the feature of that case out.
    """
    n_cases, n_repeats, n_features = values.shape
    mean = values.mean(axis=1)
    deviations = (values - mean[:, None, :]).reshape(n_cases, n_repeats * n_features)
    columns = np.hstack([mean, np.where(np.isnan(np.tile(mean, n_repeats)), np.nan, deviations)])
    return FeatureTable(columns, reliability_names(features, n_repeats), tuple(case_ids))


def learn_reliability(
    features: Sequence[str], *, n_repeats: int, model: Model, confidence: float
) -> Procedure[Reliability]:
    """Reliability over all cases of all sites: two questions, as for means and variances."""
    learned = yield from moments(reliability_names(features, n_repeats))
    return reliability_of(learned, features, n_repeats=n_repeats, model=model, confidence=confidence)


def reliability_of(
    learned: Moments, features: Sequence[str], *, n_repeats: int, model: Model, confidence: float
) -> Reliability:
    """Reliability from the moments of `reliability_names`' columns.

    Raises
    ------
    StatisticError
        Where the moments are of other columns.
    """
    if learned.names != reliability_names(features, n_repeats):
        raise StatisticError("these are not the moments of a reliability table of these features")
    k, n_features = n_repeats, len(features)
    n = learned.present[:n_features].astype(np.float64)
    mean, between = learned.mean[:n_features], learned.m2[:n_features]
    drift = learned.mean[n_features:].reshape(k, n_features)
    scatter = learned.m2[n_features:].reshape(k, n_features).sum(axis=0)
    of_repeats = n * (drift**2).sum(axis=0)
    enough = n >= SMALLEST_N
    m = np.where(enough, n, SMALLEST_N)
    if model == "1,1":
        error, df_error = (scatter + of_repeats) / (m * (k - 1)), m * (k - 1)
    else:
        error, df_error = scatter / ((m - 1) * (k - 1)), (m - 1) * (k - 1)
    mean_square = k * between / (m - 1)
    floor = (CONSTANT_TOLERANCE * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)) ** 2
    defined = enough & (mean_square + (k - 1) * error > floor)
    columns = _interval(mean_square, error, m - 1, df_error, k, confidence, defined)
    found = [
        FeatureReliability(feature, float(icc), float(low), float(high), int(count))
        for feature, icc, low, high, count, known in zip(features, *columns, n, defined, strict=True)
        if known
    ]
    return Reliability(tuple(found), tuple(f for f, known in zip(features, defined, strict=True) if not known))


def _interval(
    between: Vector,
    error: Vector,
    df_between: Vector,
    df_error: Vector,
    k: int,
    confidence: float,
    defined: npt.NDArray[np.bool_],
) -> tuple[Vector, Vector, Vector]:
    """ICC and its limits (n_features,) from mean squares; both limits are 1 where repeats agree exactly."""
    total = np.where(defined, between + (k - 1) * error, 1.0)
    icc = (between - error) / total
    tail = 1 - (1 - confidence) / 2
    to_lower = scipy.special.fdtri(df_between, df_error, tail)
    to_upper = scipy.special.fdtri(df_error, df_between, tail)
    # (F - 1) / (F + k - 1) with F = MSB / MSE over a quantile, written without the division by MSE
    low, high = between / to_lower, between * to_upper
    lower = (low - error) / np.where(defined, low + (k - 1) * error, 1.0)
    upper = (high - error) / np.where(defined, high + (k - 1) * error, 1.0)
    return icc, lower, upper
