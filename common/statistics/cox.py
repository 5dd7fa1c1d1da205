"""Cox's proportional hazards over hospitals: partial likelihood from risk-set sums, ties after Efron or Breslow.

Two ways to form the risk sets, both sums over sites:

- *strata* (`CoxStrataQuery`): each site, or batch, compares its own cases only, with a baseline hazard of its own.
  Times stay at the site. The fit is exactly the pooled fit with sites as strata, and it is the one to prefer:
  hospitals differ in follow-up.
- *shared bins* (`CoxBinsQuery`): one baseline hazard; risk sets hold cases of all sites, on agreed time bins. The fit
  is exactly the pooled fit on times rounded up to their bin's end. Bins must be wide enough for the small-cell rule.

The objective is ``loglik / n - penalty / 2 * sum((coefficient * sd)^2)``, lifelines' with a ridge penalty.

Sources: Cox 1972 (J. R. Stat. Soc. B 34:187); Breslow 1974 (Biometrics 30:89); Efron 1977 (J. Am. Stat. Assoc. 72:557).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import scipy

from common.errors import StatisticError
from common.outcomes import SurvivalOutcome
from common.statistics.columns import Indices, Matrix, complete_columns
from common.statistics.moments import moments
from common.statistics.procedure import Cohort, Procedure, Query, Sums
from common.statistics.risk_sets import PartialLikelihood, partial_likelihood, risk_sums
from common.statistics.scores import bounded_scores
from common.tables import FeatureTable

Ties = Literal["efron", "breslow"]
Strata = Literal["site", "batch"]

MAX_STEPS = 50
SETTLED = 1e-17
"""Newton stops where half the squared step in the metric of the Hessian falls below this share of the likelihood."""


def survival_outcome(cohort: Cohort) -> SurvivalOutcome:
    """The cohort's follow-up; StatisticError for another kind of outcome."""
    if not isinstance(cohort.outcome, SurvivalOutcome):
        raise StatisticError(f"this model needs follow-up times, got {type(cohort.outcome).__name__}")
    return cohort.outcome


@dataclass(frozen=True, eq=False)
class CoxStrataQuery:
    """Log partial likelihood, gradient and information of each site's (or batch's) own risk sets, added up.

    Parameters
    ----------
    names : tuple of str
    strata : {"site", "batch"}
        Whose cases are compared with one another.
    ties : {"efron", "breslow"}
    centres, scales, coefficients : ndarray of float64, shape (n_features,)
        The coefficients belong to ``(x - centre) / scale``.
    """

    kind: ClassVar[str] = "cox_strata"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    strata: str
    ties: str
    centres: Matrix
    scales: Matrix
    coefficients: Matrix

    def __post_init__(self) -> None:
        _check(self.names, self.ties, self.centres, self.scales, self.coefficients)
        if self.strata not in ("site", "batch"):
            raise ValueError(f"strata {self.strata!r}, expected site or batch")

    def summarise(self, cohort: Cohort) -> Sums:
        outcome = survival_outcome(cohort)
        values, score = _standardised(cohort, self)
        p = len(self.names)
        sums = PartialLikelihood(0.0, np.zeros(p), np.zeros((p, p)))
        for rows in self._strata_rows(cohort):
            ends, column = np.unique(outcome.time_days[rows], return_inverse=True)
            # within a stratum a shift of all scores cancels: the largest becomes 0
            shift = float(score[rows].max())
            risk = risk_sums(values[rows], score[rows] - shift, outcome.event[rows], column, len(ends))
            sums = sums.plus(partial_likelihood(risk, self.ties))
        return {
            "cases": np.array([len(outcome), outcome.event.sum()], dtype=np.int64),
            "log_likelihood": np.array([sums.value]),
            "gradient": sums.gradient,
            "information": sums.information,
        }

    def case_counts(self, cohort: Cohort) -> Indices:
        outcome = survival_outcome(cohort)
        groups = self._strata_rows(cohort) or [np.zeros(0, dtype=np.int64)]
        return np.array([[outcome.event[r].sum(), (~outcome.event[r]).sum()] for r in groups], dtype=np.int64)

    def _strata_rows(self, cohort: Cohort) -> list[Indices]:
        if self.strata == "site" or not cohort.batch:
            return [np.arange(len(cohort.batch))] if cohort.batch else []
        batch = np.array(cohort.batch)
        return [np.flatnonzero(batch == name) for name in np.unique(batch)]


@dataclass(frozen=True, eq=False)
class CoxBinsQuery:
    """Risk-set sums of the cases that leave in each agreed time bin, and of those among them with the event.

    Parameters
    ----------
    ends_days : ndarray of float64, shape (n_bins,)
        Rising ends of the bins (first bin from 0, closed above). Later follow-up counts as censored in a last bin.
    names, centres, scales, coefficients
        As in `CoxStrataQuery`.
    """

    kind: ClassVar[str] = "cox_bins"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    ends_days: Matrix
    centres: Matrix
    scales: Matrix
    coefficients: Matrix

    def __post_init__(self) -> None:
        _check(self.names, "efron", self.centres, self.scales, self.coefficients)
        if self.ends_days.ndim != 1 or not self.ends_days.size or (np.diff(self.ends_days, prepend=0.0) <= 0).any():
            raise ValueError("ends_days must be positive and rise")

    def summarise(self, cohort: Cohort) -> Sums:
        values, score = _standardised(cohort, self)
        event, column = self._binned(cohort)
        risk = risk_sums(values, score, event, column, len(self.ends_days) + 1)
        return {"cases": np.array([len(event), event.sum()], dtype=np.int64), **risk}

    def case_counts(self, cohort: Cohort) -> Indices:
        event, column = self._binned(cohort)
        n = len(self.ends_days) + 1
        return np.stack([np.bincount(column[keep], minlength=n) for keep in (event, ~event)]).astype(np.int64)

    def _binned(self, cohort: Cohort) -> tuple[npt.NDArray[np.bool_], Indices]:
        outcome = survival_outcome(cohort)
        column = np.searchsorted(self.ends_days, outcome.time_days, side="left")
        return outcome.event & (column < len(self.ends_days)), column


@dataclass(frozen=True, eq=False)
class CoxModel:
    """A fitted model.

    Parameters
    ----------
    names : tuple of str
    centres : ndarray, shape (n_features,)
        Means over all cases; a case at the centres has a score of 0.
    coefficients : ndarray, shape (n_features,)
        Log hazard ratios a unit of the feature.
    covariance : ndarray, shape (n_features, n_features)
        Inverse of the (penalised) information.
    log_likelihood : float
        Partial, without the penalty.
    n_cases, n_events : int
    """

    names: tuple[str, ...]
    centres: Matrix
    coefficients: Matrix
    covariance: Matrix
    log_likelihood: float
    n_cases: int
    n_events: int

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.centres.shape != (n,) or self.coefficients.shape != (n,) or self.covariance.shape != (n, n):
            raise ValueError(f"centres, coefficients or covariance do not fit {n} features")

    @property
    def standard_errors(self) -> Matrix:
        errors: Matrix = np.sqrt(np.diag(self.covariance))
        return errors

    def score(self, table: FeatureTable) -> Matrix:
        """Linear predictor (n_cases,): log hazard against a case at the centres."""
        return (complete_columns(table, self.names) - self.centres) @ self.coefficients

    def predict(self, table: FeatureTable) -> Matrix:
        """A number between 0 and 1 that falls with the hazard, (n_cases, 1): its order is that of survival.

        A probability of surviving needs a baseline hazard, which in a stratified fit each site has for itself.
        """
        return scipy.special.expit(-self.score(table))[:, None]


def cox(
    names: Sequence[str], *, ties: Ties = "efron", strata: Strata = "site", penalty: float = 0.0
) -> Procedure[CoxModel]:
    """Fit with a baseline hazard for each site or batch; no time leaves a site.

    Raises
    ------
    StatisticError
        Without events, with constant or collinear features, or where the features order the events (no finite
        solution; a penalty gives one).
    """
    names = tuple(names)

    def ask(centres: Matrix, scales: Matrix, at: Matrix) -> Query:
        return CoxStrataQuery(names, strata, ties, centres, scales, at)

    def read(sums: Sums) -> PartialLikelihood:
        return PartialLikelihood(float(sums["log_likelihood"][0]), sums["gradient"], sums["information"])

    return (yield from _newton(names, ask, read, penalty))


def cox_on_bins(
    names: Sequence[str], ends_days: Sequence[float], *, ties: Ties = "efron", penalty: float = 0.0
) -> Procedure[CoxModel]:
    """Fit with one baseline hazard for all sites, times rounded up to the ends of agreed bins.

    Raises
    ------
    StatisticError
        As `cox`.
    """
    names, ends = tuple(names), np.array(ends_days, dtype=np.float64)

    def ask(centres: Matrix, scales: Matrix, at: Matrix) -> Query:
        return CoxBinsQuery(names, ends, centres, scales, at)

    return (yield from _newton(names, ask, lambda sums: partial_likelihood(sums, ties), penalty))


def _newton(
    names: tuple[str, ...],
    ask: Callable[[Matrix, Matrix, Matrix], Query],
    read: Callable[[Sums], PartialLikelihood],
    penalty: float,
) -> Procedure[CoxModel]:
    """Newton's method with halved steps on standardised features."""
    if penalty < 0:
        raise StatisticError(f"a penalty is not negative, got {penalty}")
    learned = (yield from moments(names)).require_present()
    scales = np.sqrt(learned.m2 / (learned.present - 1))
    constant = [name for name, scale in zip(names, scales, strict=True) if not scale > 0]
    if constant:
        raise StatisticError(f"constant features have no hazard ratio: {', '.join(constant[:5])}")
    at, ridge, last = np.zeros(len(names)), penalty * learned.n_cases, -math.inf
    step: Matrix = np.zeros(len(names))
    for _ in range(MAX_STEPS):
        sums = yield ask(learned.mean, scales, at)
        n_cases, n_events = (int(n) for n in sums["cases"])
        if not n_events:
            raise StatisticError(f"no event among {n_cases} cases")
        found = read(sums)
        objective = found.value - ridge / 2 * float(at @ at)
        if objective < last - 1e-12 * abs(last):
            step = step / 2
            at = at - step
            continue
        information = found.information + ridge * np.eye(len(names))
        _require_regular(information, names)
        last = objective
        step = np.linalg.solve(information, found.gradient - ridge * at).astype(np.float64)
        if float(step @ information @ step) / 2 <= SETTLED * max(abs(objective), 1.0):
            # the last step is below every figure asked for; taking it costs no question
            return _model(names, learned.mean, scales, at + step, information, found.value, n_cases, n_events)
        at = at + step
    raise StatisticError(f"Cox regression did not settle in {MAX_STEPS} steps; the features may order the events")


def _model(
    names: tuple[str, ...],
    centres: Matrix,
    scales: Matrix,
    at: Matrix,
    information: Matrix,
    value: float,
    n_cases: int,
    n_events: int,
) -> CoxModel:
    covariance = np.linalg.inv(information) / scales[:, None] / scales[None, :]
    return CoxModel(names, centres, at / scales, covariance, value, n_cases, n_events)


def _check(names: tuple[str, ...], ties: str, *vectors: Matrix) -> None:
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties {ties!r}, expected efron or breslow")
    for vector in vectors:
        if vector.shape != (len(names),):
            raise ValueError(f"vector of shape {vector.shape} does not fit {len(names)} features")
    if not (vectors[1] > 0).all():
        raise ValueError("scales must be positive")


def _standardised(cohort: Cohort, query: CoxStrataQuery | CoxBinsQuery) -> tuple[Matrix, Matrix]:
    values = (complete_columns(cohort.table, query.names) - query.centres) / query.scales
    advice = "they grow without limit: the features order the events"
    return values, bounded_scores(values @ query.coefficients, advice=advice)


def _require_regular(information: Matrix, names: tuple[str, ...]) -> None:
    roots, directions = np.linalg.eigh(information)
    if roots[0] > 1e-10 * max(roots[-1], 1e-300):
        return
    involved = [name for name, weight in zip(names, np.abs(directions[:, 0]), strict=True) if weight > 0.1]
    raise StatisticError(f"no unique solution: collinear, or without effect at any event: {', '.join(involved[:5])}")
