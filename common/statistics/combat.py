"""Federated ComBat: location and scale of each batch, with covariates kept, from three rounds of sums.

With features and covariates centred within batches the covariate effects solve a small normal equation (Frisch and
Waugh), residual sums of squares follow in a further pass, and all else is `common.statistics.combat_bayes`. The result
is that of pooled neuroCombat (Fortin et al. 2017, 2018) for any split of the cases into sites; a batch may be a site, a
scanner within a site, or span sites. What leaves a site is B x F numbers a round, whatever the number of cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, complete_columns, group_rows, indicator, listed
from common.statistics.combat_bayes import BatchEstimates, Priors, shrink
from common.statistics.combat_model import CombatModel, CombatSettings
from common.statistics.design import Covariates, refuse_collinear
from common.statistics.moments import Moments
from common.statistics.procedure import Cohort, Procedure, Sums

CONSTANT = 1e-24
"""A residual variance below this share of the feature's mean square is rounding: the feature does not vary."""

LEAST_SPREAD = 0.01
"""Share of the common variance below which a private variance of one batch is not believed."""


@dataclass(frozen=True, eq=False)
class _DesignQuery:
    names: tuple[str, ...]
    batches: tuple[str, ...]
    continuous: tuple[str, ...]
    categorical: tuple[str, ...]
    level_counts: tuple[int, ...]
    levels: tuple[float, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _ = self.covariates

    @property
    def covariates(self) -> Covariates:
        return Covariates(self.continuous, self.categorical, self.level_counts, self.levels, self.classes)

    def case_counts(self, cohort: Cohort) -> Indices:
        return self.covariates.cell_sizes(cohort, self._member(cohort))

    def _member(self, cohort: Cohort) -> Matrix:
        return indicator(group_rows(cohort, "batch", self.batches), len(self.batches))

    def _centred(self, cohort: Cohort, features: Matrix, covariates: Matrix) -> tuple[Matrix, Matrix]:
        """Features and coded covariates minus their batch's row of the given (n_batches, ...) centres."""
        rows = group_rows(cohort, "batch", self.batches)
        values = complete_columns(cohort.table, self.names)
        return values - features[rows], self.covariates.code(cohort) - covariates[rows]

    def _check_centres(self, features: Matrix, covariates: Matrix) -> None:
        expected = (len(self.batches), len(self.names)), (len(self.batches), len(self.covariates.column_names))
        if (features.shape, covariates.shape) != expected:
            raise ValueError(
                f"centres {features.shape} and {covariates.shape}, expected {expected[0]} and {expected[1]}"
            )


@dataclass(frozen=True, eq=False)
class CombatTotalsQuery(_DesignQuery):
    """Cases, feature totals and covariate totals of each batch, about the given centres."""

    kind: ClassVar[str] = "combat_totals"
    cumulative: ClassVar[tuple[str, ...]] = ()
    feature_centres: Matrix
    covariate_centres: Matrix

    def __post_init__(self) -> None:
        self._check_centres(self.feature_centres, self.covariate_centres)

    def summarise(self, cohort: Cohort) -> Sums:
        member = self._member(cohort)
        features, covariates = self._centred(cohort, self.feature_centres, self.covariate_centres)
        return {
            "cases": member.sum(axis=0).astype(np.int64),
            "features": member.T @ features,
            "covariates": member.T @ covariates,
        }


@dataclass(frozen=True, eq=False)
class CombatCrossQuery(_DesignQuery):
    """Products of covariates with covariates and features, all centred on their batch's mean."""

    kind: ClassVar[str] = "combat_cross"
    cumulative: ClassVar[tuple[str, ...]] = ()
    feature_means: Matrix
    covariate_means: Matrix

    def __post_init__(self) -> None:
        self._check_centres(self.feature_means, self.covariate_means)

    def summarise(self, cohort: Cohort) -> Sums:
        features, covariates = self._centred(cohort, self.feature_means, self.covariate_means)
        return {"covariates": covariates.T @ covariates, "features": covariates.T @ features}


@dataclass(frozen=True, eq=False)
class CombatResidualQuery(_DesignQuery):
    """Residuals under given covariate effects, and their squares, summed by batch."""

    kind: ClassVar[str] = "combat_residuals"
    cumulative: ClassVar[tuple[str, ...]] = ()
    feature_means: Matrix
    covariate_means: Matrix
    effects: Matrix

    def __post_init__(self) -> None:
        self._check_centres(self.feature_means, self.covariate_means)
        if self.effects.shape != (len(self.covariates.column_names), len(self.names)):
            raise ValueError(f"effects {self.effects.shape} do not fit the covariates and features")

    def summarise(self, cohort: Cohort) -> Sums:
        member = self._member(cohort)
        features, covariates = self._centred(cohort, self.feature_means, self.covariate_means)
        residual = features - covariates @ self.effects
        return {"residuals": member.T @ residual, "squares": member.T @ residual**2}


def combat(names: Sequence[str], settings: CombatSettings) -> Procedure[CombatModel]:
    """Fit ComBat on the current training fold of every site.

    Raises
    ------
    StatisticError
        Where a batch is empty or has one case (unless ``mean_only``), covariates are collinear, fewer cases than
        parameters, or a feature does not vary and the settings refuse that: each by name.
    """
    names = tuple(names)
    covariates = settings.covariates
    k, b = len(covariates.column_names), len(settings.batches)
    spec = (
        names,
        settings.batches,
        covariates.continuous,
        covariates.categorical,
        covariates.level_counts,
        covariates.levels,
        covariates.classes,
    )
    sums = yield CombatTotalsQuery(*spec, np.zeros((b, len(names))), np.zeros((b, k)))
    cases = sums["cases"]
    _refuse_small_batches(cases, settings)
    feature_means, covariate_means = sums["features"] / cases[:, None], sums["covariates"] / cases[:, None]
    sums = yield CombatTotalsQuery(*spec, feature_means, covariate_means)
    feature_means = feature_means + sums["features"] / cases[:, None]
    covariate_means = covariate_means + sums["covariates"] / cases[:, None]
    effects, scatter = np.zeros((k, len(names))), np.zeros((k, k))
    if k:
        sums = yield CombatCrossQuery(*spec, feature_means, covariate_means)
        overall = cases @ covariate_means / cases.sum()
        between = (covariate_means - overall).T @ (cases[:, None] * (covariate_means - overall))
        scatter = sums["covariates"] + between
        effects = _covariate_effects(sums["covariates"], scatter, sums["features"], covariates.column_names)
    sums = yield CombatResidualQuery(*spec, feature_means, covariate_means, effects)
    squares = np.maximum(sums["squares"] - sums["residuals"] ** 2 / cases[:, None], 0.0)
    merged = _Merged(names, cases, feature_means, covariate_means, effects, scatter, squares)
    return _solve(merged, settings)


def combat_of_moments(names: Sequence[str], settings: CombatSettings, groups: Sequence[Moments]) -> CombatModel:
    """ComBat without covariates from the moments of each batch, in the order of ``settings.batches``.

    With exact moments this is `combat`. Noise can leave a batch no spread: `LEAST_SPREAD` of what the batches have in
    common is the floor.

    Raises
    ------
    StatisticError
        As `combat`; and for settings with covariates, of which moments say nothing.
    """
    if settings.covariates.column_names:
        raise StatisticError(f"moments know no covariates, got {', '.join(settings.covariates.column_names)}")
    cases = np.array([group.n_cases for group in groups], dtype=np.int64)
    _refuse_small_batches(cases, settings)
    squares = np.array([group.m2 for group in groups])
    common = squares.sum(axis=0) / cases.sum()
    squares = np.maximum(squares, LEAST_SPREAD * common * cases[:, None])
    none = np.zeros((0, len(names)))
    means = np.array([group.mean for group in groups])
    merged = _Merged(tuple(names), cases, means, np.zeros((len(cases), 0)), none, np.zeros((0, 0)), squares)
    return _solve(merged, settings)


@dataclass(frozen=True, eq=False)
class _Merged:
    """All that the sites' sums say: (B,) cases, (B, F) means and residual squares, (B, K) covariate means."""

    names: tuple[str, ...]
    cases: Indices
    feature_means: Matrix
    covariate_means: Matrix
    effects: Matrix
    scatter: Matrix
    squares: Matrix


def _refuse_small_batches(cases: Indices, settings: CombatSettings) -> None:
    smallest = 1 if settings.mean_only else 2
    small = [f"{name} ({n})" for name, n in zip(settings.batches, cases, strict=True) if n < smallest]
    if small:
        raise StatisticError(
            f"batches with fewer than {smallest} cases: {', '.join(small)}; merge them with another, leave them out"
            f"{'' if settings.mean_only else ', or adjust the mean only'}"
        )
    parameters = len(settings.batches) + len(settings.covariates.column_names)
    if cases.sum() <= parameters:
        raise StatisticError(f"{cases.sum()} cases cannot determine {parameters} effects of batches and covariates")


def _covariate_effects(within: Matrix, scatter: Matrix, cross: Matrix, names: tuple[str, ...]) -> Matrix:
    spread = np.sqrt(np.diag(scatter))
    flat = [name for name, width in zip(names, spread, strict=True) if width == 0.0]
    if flat:
        raise StatisticError(f"covariates without variation: {', '.join(flat)}; leave them out")
    refuse_collinear(within / np.outer(spread, spread), names)
    solved: Matrix = np.linalg.solve(within / np.outer(spread, spread), cross / spread[:, None]) / spread[:, None]
    return solved


def _solve(merged: _Merged, settings: CombatSettings) -> CombatModel:
    """Standardise, estimate each batch, shrink."""
    n, reference = merged.cases, settings.reference
    intercepts = merged.feature_means - merged.covariate_means @ merged.effects
    if reference:
        r = settings.batches.index(reference)
        grand_mean, pooled = intercepts[r], merged.squares[r] / n[r]
    else:
        grand_mean, pooled = n @ intercepts / n.sum(), merged.squares.sum(axis=0) / n.sum()
    mean_square = np.maximum((n @ merged.feature_means**2) / n.sum(), np.finfo(np.float64).tiny)
    varies = pooled > CONSTANT * mean_square
    if not varies.any():
        raise StatisticError("no feature varies within the batches: there is nothing to harmonise")
    pooled = np.where(varies, pooled, 1.0)
    scale = np.sqrt(pooled)
    gamma_hat = (intercepts - grand_mean) / scale
    standard_squares = merged.squares / pooled
    flat = (merged.squares <= CONSTANT * n[:, None] * mean_square) & varies
    notes = tuple(_constant_notes(flat, varies, merged.names, settings))
    shape = gamma_hat.shape
    delta_hat, gamma_star, delta_star = np.ones(shape), np.zeros(shape), np.ones(shape)
    learned = []
    for i, name in enumerate(settings.batches):
        if not settings.mean_only:
            delta_hat[i] = np.where(flat[i] | ~varies, 1.0, standard_squares[i] / (n[i] - 1))
        if name == reference:
            learned.append(Priors())
            continue
        batch = BatchEstimates(int(n[i]), gamma_hat[i, varies], delta_hat[i, varies], standard_squares[i, varies])
        prior, gamma_star[i, varies], delta_star[i, varies] = shrink(batch, settings.method, settings.mean_only)
        learned.append(prior)
    mean_effect = (n @ merged.covariate_means / n.sum()) @ merged.effects
    explained = np.einsum("kf,kl,lf->f", merged.effects, merged.scatter, merged.effects) / n.sum()
    return CombatModel(
        names=merged.names,
        batches=settings.batches,
        cases=tuple(int(count) for count in n),
        continuous=settings.covariates.continuous,
        categorical=settings.covariates.categorical,
        level_counts=settings.covariates.level_counts,
        levels=settings.covariates.levels,
        classes=settings.covariates.classes,
        method=settings.method,
        mean_only=settings.mean_only,
        reference=reference,
        fold=settings.fold,
        grand_mean=grand_mean,
        pooled_variance=pooled,
        effects=merged.effects,
        mean_effect=mean_effect,
        explained_variance=explained,
        gamma_hat=gamma_hat,
        delta_hat=delta_hat,
        priors=np.array([[p.gamma_bar, p.t2, p.a_prior, p.b_prior] for p in learned]),
        gamma_star=gamma_star,
        delta_star=delta_star,
        unadjusted=tuple(name for name, moves in zip(merged.names, varies, strict=True) if not moves),
        notes=notes,
    )


def _constant_notes(flat: Matrix, varies: Matrix, names: Sequence[str], settings: CombatSettings) -> Iterator[str]:
    if not varies.all():
        still = np.flatnonzero(np.logical_not(varies))
        yield f"left as they are, without variation within batches: {listed(names, still)}"
    if settings.mean_only:
        return
    for batch, constant in zip(settings.batches, flat, strict=True):
        if constant.any():
            found = f"constant in batch {batch}: {listed(names, np.flatnonzero(constant))}"
            if settings.constant_in_batch == "refuse":
                raise StatisticError(f"{found}; filter these features out, or set constant_in_batch to location_only")
            yield f"{found}; their scale there was taken as 1"
