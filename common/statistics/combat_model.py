"""ComBat's settings and its fit: how it is applied to cases of its batches, and to a site that was not in the fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Matrix, complete_columns, group_rows
from common.statistics.combat_bayes import BatchEstimates, Method, shrink
from common.statistics.design import Covariates
from common.statistics.procedure import Cohort
from common.tables import FeatureTable


@dataclass(frozen=True)
class CombatSettings:
    """What a study asks of ComBat.

    Parameters
    ----------
    batches : tuple of str
        Agreed batches: sites, or scanners within sites.
    covariates : Covariates
        Whose effects are kept.
    method : {"parametric", "nonparametric", "none"}
        Empirical Bayes over features, or none.
    mean_only : bool
        Adjust locations alone.
    reference : str
        Batch that stays as it is and to which the others are moved; empty for the grand mean.
    constant_in_batch : {"location_only", "refuse"}
        A feature without variance within one batch: take its scale as 1 (neuroCombat's convention; named in the
        model's notes), or refuse with its name.
    fold : int
        Training fold that the cases belong to, -1 for a fit on all cases; `CombatModel.apply` asks for it again.
    """

    batches: tuple[str, ...]
    covariates: Covariates = field(default_factory=Covariates)
    method: Method = "parametric"
    mean_only: bool = False
    reference: str = ""
    constant_in_batch: Literal["location_only", "refuse"] = "location_only"
    fold: int = -1

    def __post_init__(self) -> None:
        if len(self.batches) < 2 or len(set(self.batches)) != len(self.batches):
            raise ValueError(f"ComBat needs at least 2 different batches, got {self.batches}")
        if self.reference and self.reference not in self.batches:
            raise ValueError(f"reference batch {self.reference!r} is not among {self.batches}")


@dataclass(frozen=True, eq=False)
class CombatModel:
    """Parameters of ComBat, in neuroCombat's parametrisation.

    Parameters
    ----------
    names : tuple of str, length n_features
    batches, cases : tuple of str, tuple of int
        The batches and the number of cases each was fitted on.
    continuous, categorical, level_counts, levels, classes
        The covariates, as in `common.statistics.design.Covariates`.
    method, mean_only, reference, fold
        As in the settings of the fit.
    grand_mean, pooled_variance : ndarray of float64, shape (n_features,)
        Location and variance to which batches are moved; ``stand.mean`` and ``var.pooled`` of neuroCombat.
    effects : ndarray of float64, shape (n_covariates, n_features)
        Kept effects of the coded covariates.
    mean_effect, explained_variance : ndarray of float64, shape (n_features,)
        Mean over the fitted cases of the covariates' contribution, and the variance that they explain.
    gamma_hat, delta_hat, gamma_star, delta_star : ndarray of float64, shape (n_batches, n_features)
        Location and scale of each batch, before and after empirical Bayes, in standardised units.
    priors : ndarray of float64, shape (n_batches, 4)
        ``gamma_bar``, ``t2``, ``a_prior``, ``b_prior`` of each batch; 0 where not used.
    unadjusted : tuple of str
        Features that do not vary and are left as they are.
    notes : tuple of str
        What a reader of the report has to know, one sentence each.
    """

    kind: ClassVar[str] = "combat"
    names: tuple[str, ...]
    batches: tuple[str, ...]
    cases: tuple[int, ...]
    continuous: tuple[str, ...]
    categorical: tuple[str, ...]
    level_counts: tuple[int, ...]
    levels: tuple[float, ...]
    classes: tuple[str, ...]
    method: str
    mean_only: bool
    reference: str
    fold: int
    grand_mean: Matrix
    pooled_variance: Matrix
    effects: Matrix
    mean_effect: Matrix
    explained_variance: Matrix
    gamma_hat: Matrix
    delta_hat: Matrix
    priors: Matrix
    gamma_star: Matrix
    delta_star: Matrix
    unadjusted: tuple[str, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        n_features, n_batches, n_covariates = len(self.names), len(self.batches), len(self.covariates.column_names)
        shapes = {
            "grand_mean": (n_features,),
            "pooled_variance": (n_features,),
            "mean_effect": (n_features,),
            "explained_variance": (n_features,),
            "effects": (n_covariates, n_features),
            "priors": (n_batches, 4),
            **dict.fromkeys(("gamma_hat", "delta_hat", "gamma_star", "delta_star"), (n_batches, n_features)),
        }
        wrong = [f"{name} {getattr(self, name).shape}" for name in shapes if getattr(self, name).shape != shapes[name]]
        if wrong or not (self.pooled_variance > 0).all() or not (self.delta_star > 0).all():
            raise ValueError(f"not a ComBat model of {n_features} features: {wrong or 'variances must be positive'}")

    @property
    def covariates(self) -> Covariates:
        return Covariates(self.continuous, self.categorical, self.level_counts, self.levels, self.classes)

    def apply_to(self, cohort: Cohort, *, fold: int) -> Cohort:
        """The cohort with harmonised features; other columns of the table are kept as they are.

        Parameters
        ----------
        fold : int
            The fold being worked on: a model of another fold has seen cases that this one holds out.

        Raises
        ------
        StatisticError
            Where the fold differs; a batch was not in the fit (see `adapt`); values are missing.
        """
        if fold != self.fold:
            raise StatisticError(f"ComBat was fitted on training fold {self.fold} and cannot serve fold {fold}")
        unknown = sorted(set(cohort.batch) - set(self.batches))
        if unknown:
            raise StatisticError(f"batches that were not in the fit: {', '.join(unknown)}; use the covariate-free path")
        values = complete_columns(cohort.table, self.names)
        rows = group_rows(cohort, "batch", self.batches)
        scale = np.sqrt(self.pooled_variance)
        fitted = self.grand_mean + self.covariates.code(cohort) @ self.effects
        standard = (values - fitted) / scale
        harmonised = (standard - self.gamma_star[rows]) / np.sqrt(self.delta_star[rows]) * scale + fitted
        untouched = (
            np.isin(self.names, self.unadjusted)[None, :] | (np.asarray(cohort.batch) == self.reference)[:, None]
        )
        return replace(cohort, table=_put(cohort.table, self.names, np.where(untouched, values, harmonised)))

    def without_covariates(self) -> CombatModel:
        """The same batches' location and scale, applicable to cases whose covariates or outcome are unknown.

        The mean contribution of the covariates goes into the grand mean (as in neuroCombatFromTraining); a case's own
        covariates then stay part of its harmonised values.
        """
        return replace(
            self,
            continuous=(),
            categorical=(),
            level_counts=(),
            levels=(),
            classes=(),
            effects=np.zeros((0, len(self.names))),
            grand_mean=self.grand_mean + self.mean_effect,
            mean_effect=np.zeros(len(self.names)),
        )


@dataclass(frozen=True, eq=False)
class UnseenBatch:
    """Harmonisation of one batch that was not in the fit: ``slope * x + offset`` for each feature."""

    names: tuple[str, ...]
    batch: str
    n_cases: int
    slope: Matrix
    offset: Matrix

    def __post_init__(self) -> None:
        if self.slope.shape != (len(self.names),) or self.offset.shape != (len(self.names),):
            raise ValueError(
                f"slope {self.slope.shape} and offset {self.offset.shape} do not fit {len(self.names)} features"
            )

    def apply(self, table: FeatureTable) -> FeatureTable:
        """The table with the harmonised columns in place; missing values stay missing."""
        return _put(table, self.names, table.select(self.names).values * self.slope + self.offset)


def adapt(model: CombatModel, table: FeatureTable, *, batch: str) -> UnseenBatch:
    """Learn location and scale of a new batch from its unlabelled cases, against a fitted model.

    Nothing leaves the site. Without covariates the new cases vary by residual and covariates alike, so they are
    standardised by the total variance of the fitted cases, ``pooled_variance + explained_variance``. Empirical Bayes
    shrinks over the features of the new batch, by the method of the fit. Assumes that the new site's case mix resembles
    that of the fit.

    Parameters
    ----------
    table : FeatureTable, (n_cases, n_features)
        Cases of the new batch alone; neither outcome nor covariates are asked for.

    Raises
    ------
    StatisticError
        Where there are fewer than 2 cases (the scale is then unknown), or values are missing.
    """
    values = complete_columns(table, model.names)
    if len(values) < 2 and not model.mean_only:
        raise StatisticError(f"batch {batch}: {len(values)} cases; location and scale of a new batch need at least 2")
    if not len(values):
        raise StatisticError(f"batch {batch} has no case")
    varies = ~np.isin(model.names, model.unadjusted)
    centre, scale = model.grand_mean + model.mean_effect, np.sqrt(model.pooled_variance + model.explained_variance)
    standard = ((values - centre) / scale)[:, varies]
    gamma_hat = standard.mean(axis=0)
    squares = ((standard - gamma_hat) ** 2).sum(axis=0)
    delta_hat = np.ones_like(gamma_hat)
    if not model.mean_only:
        delta_hat = np.where(squares > 0, squares / max(len(values) - 1, 1), 1.0)
    estimates = BatchEstimates(len(values), gamma_hat, delta_hat, squares)
    _, gamma_star, delta_star = shrink(estimates, cast(Method, model.method), model.mean_only)
    slope, offset = np.ones(len(model.names)), np.zeros(len(model.names))
    slope[varies] = 1.0 / np.sqrt(delta_star)
    moved = centre[varies] + gamma_star * scale[varies]
    offset[varies] = centre[varies] - moved * slope[varies]
    return UnseenBatch(model.names, batch, len(values), slope, offset)


def _put(table: FeatureTable, names: tuple[str, ...], values: Matrix) -> FeatureTable:
    """The table with ``values`` in the named columns."""
    if names == table.names:
        return table.with_values(values)
    position = {name: j for j, name in enumerate(table.names)}
    changed = table.values.copy()
    changed[:, [position[name] for name in names]] = values
    return table.with_values(changed)
