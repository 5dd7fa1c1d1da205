"""Classical models as a study names them: settings that are solved by questions instead of trained by rounds.

A closed, tagged union like that of the trained models; each has ``solve(names, target)``, a procedure that ends in a
fitted model (`common.statistics.fitted`). The result is that of the pooled rows, whatever the split into hospitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from common.statistics.boosting import BoostingSettings, boosting
from common.statistics.cox import cox
from common.statistics.discrete_survival import discrete_hazards
from common.statistics.fitted import FittedModel
from common.statistics.forest import ForestSettings, forest
from common.statistics.kernel import rbf_svm
from common.statistics.lasso import PenaltyPath, PenaltySettings, lasso
from common.statistics.logistic import logistic_lasso
from common.statistics.margins import MarginModel, linear_svm, ridge_logistic, ridge_regression
from common.statistics.procedure import Procedure
from common.statistics.quantiles import balanced_edges
from common.statistics.xgboost_booster import MAX_DEPTH
from common.statistics.xgboost_trees import XgboostSettings, xgboost_bagging

OutcomeKind = Literal["two classes", "several classes", "number", "survival"]


@dataclass(frozen=True)
class Target:
    """What is to be predicted, and the study's minimum of cases and seed.

    Parameters
    ----------
    kind : {"two classes", "several classes", "number", "survival"}
    classes : tuple of str
        Empty for a number or survival.
    interval_ends_days : tuple of float
        Empty but for survival.
    minimum_cases : int
        Trees move cases in groups of at least so many (`common.statistics.case_groups`).
    seed : int
        Of random features and of the features drawn in the nodes of a forest.
    """

    kind: OutcomeKind
    classes: tuple[str, ...] = ()
    interval_ends_days: tuple[float, ...] = ()
    minimum_cases: int = 1
    seed: int = 0


class _Solved(BaseModel):
    """What solved models share: they read the table, never the image."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    needs_image: ClassVar[bool] = False
    needs_table: ClassVar[bool] = True
    sends_sums: ClassVar[bool] = True
    outcomes: ClassVar[tuple[OutcomeKind, ...]]


class RidgeConfig(_Solved):
    """Logistic regression of two classes, or linear regression, with a ridge penalty; 0 is maximum likelihood."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes", "number")
    kind: Literal["ridge"]
    penalty: NonNegativeFloat = 0.01

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        fit = ridge_regression if target.kind == "number" else ridge_logistic
        return (yield from fit(names, penalty=self.penalty))


class ElasticNetConfig(_Solved):
    """Logistic or linear regression with an elastic-net penalty, chosen by cross-validation or given.

    Parameters
    ----------
    l1_ratio : float
        1 is LASSO.
    penalty : float, optional
        Taken as it is; without it the best of ``n_penalties`` is found by cross-validation.
    n_folds : int
        Under the small-cell rule each hospital needs its minimum in every fold and class.
    choose : {"best", "simplest"}
        Penalty with the least held-out loss, or the largest one within a standard error of it.
    """

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes", "number")
    kind: Literal["elastic_net"]
    l1_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    penalty: PositiveFloat | None = None
    n_penalties: Annotated[int, Field(ge=2, le=100)] = 20
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.01
    n_folds: Annotated[int, Field(ge=2, le=20)] = 5
    choose: Literal["best", "simplest"] = "best"

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        path_of = lasso if target.kind == "number" else logistic_lasso
        path = yield from path_of(names, self._settings())
        chosen = 0 if self.penalty is not None else path.best if self.choose == "best" else path.simplest
        return of_path(path, chosen, "squared" if target.kind == "number" else "logistic")

    def _settings(self) -> PenaltySettings:
        if self.penalty is not None:
            return PenaltySettings(l1_ratio=self.l1_ratio, penalties=(self.penalty,))
        return PenaltySettings(
            l1_ratio=self.l1_ratio, n_penalties=self.n_penalties, smallest=self.smallest, n_folds=self.n_folds
        )


class SvmConfig(_Solved):
    """Linear support vectors with a squared hinge.

    ``softness`` above 0 rounds the hinge off, so that every case counts; with 0, scikit-learn's hinge, a hospital with
    few cases inside the margin refuses. Give ``calibration`` where probabilities matter.
    """

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes",)
    kind: Literal["svm"]
    penalty: PositiveFloat = 0.1
    softness: NonNegativeFloat = 0.1

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        return (yield from linear_svm(names, penalty=self.penalty, softness=self.softness))


class RbfSvmConfig(_Solved):
    """Support vectors with an RBF kernel, through ``n_random`` random features that all hospitals draw alike."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes",)
    kind: Literal["rbf_svm"]
    penalty: PositiveFloat = 0.01
    gamma: PositiveFloat | None = None
    n_random: Annotated[int, Field(ge=1, le=2000)] = 200
    softness: NonNegativeFloat = 0.1

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        return (
            yield from rbf_svm(
                names,
                penalty=self.penalty,
                gamma=self.gamma,
                n_random=self.n_random,
                seed=target.seed,
                softness=self.softness,
            )
        )


class ForestConfig(_Solved):
    """Random forest on agreed bins of about equal counts."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes", "several classes")
    kind: Literal["forest"]
    n_trees: Annotated[int, Field(ge=1, le=1000)] = 100
    max_depth: Annotated[int, Field(ge=1, le=20)] = 5
    n_columns: PositiveInt | None = None
    least_cases: PositiveInt = 5
    n_bins: Annotated[int, Field(ge=2, le=256)] = 32

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        edges = yield from balanced_edges(names, self.n_bins)
        settings = ForestSettings(
            n_trees=self.n_trees,
            max_depth=self.max_depth,
            n_columns=self.n_columns,
            least_cases=self.least_cases,
            group_size=target.minimum_cases,
            seed=target.seed,
        )
        return (yield from forest(names, target.classes, edges, settings))


class BoostingConfig(_Solved):
    """Gradient boosting on agreed bins of about equal counts."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes", "number")
    kind: Literal["boosting"]
    n_trees: Annotated[int, Field(ge=1, le=1000)] = 50
    max_depth: Annotated[int, Field(ge=1, le=10)] = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    ridge: NonNegativeFloat = 1.0
    least_cases: PositiveInt = 10
    n_bins: Annotated[int, Field(ge=2, le=256)] = 32

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        edges = yield from balanced_edges(names, self.n_bins)
        settings = BoostingSettings(
            loss="squared" if target.kind == "number" else "logistic",
            n_trees=self.n_trees,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            ridge=self.ridge,
            least_cases=self.least_cases,
            group_size=target.minimum_cases,
        )
        return (yield from boosting(names, edges, settings))


class XgboostConfig(_Solved):
    """XGBoost by Flower's bagging strategy: in each round every hospital adds a tree grown on its own cases.

    No sum: under secure aggregation take ``boosting``, whose trees are the pooled ones.
    """

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("two classes", "number")
    sends_sums: ClassVar[bool] = False
    kind: Literal["xgboost"]
    rounds: Annotated[int, Field(ge=1, le=1000)] = 50
    max_depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    ridge: NonNegativeFloat = 1.0
    n_bins: Annotated[int, Field(ge=2, le=256)] = 32

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        edges = yield from balanced_edges(names, self.n_bins)
        settings = XgboostSettings(
            loss="squared" if target.kind == "number" else "logistic",
            rounds=self.rounds,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            ridge=self.ridge,
            group_size=target.minimum_cases,
        )
        return (yield from xgboost_bagging(names, edges, settings))


class CoxConfig(_Solved):
    """Cox regression with a baseline hazard for each hospital (or each ComBat batch); no time leaves a hospital."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("survival",)
    kind: Literal["cox"]
    ties: Literal["efron", "breslow"] = "efron"
    strata: Literal["site", "batch"] = "site"
    penalty: NonNegativeFloat = 0.01

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        return (yield from cox(names, ties=self.ties, strata=self.strata, penalty=self.penalty))


class DiscreteSurvivalConfig(_Solved):
    """Hazards in the outcome's intervals, shifted by the features; one baseline for all hospitals."""

    outcomes: ClassVar[tuple[OutcomeKind, ...]] = ("survival",)
    kind: Literal["discrete_survival"]
    penalty: NonNegativeFloat = 0.01

    def solve(self, names: Sequence[str], target: Target) -> Procedure[FittedModel]:
        return (yield from discrete_hazards(names, target.interval_ends_days, penalty=self.penalty))


AnySolved = (
    RidgeConfig
    | ElasticNetConfig
    | SvmConfig
    | RbfSvmConfig
    | ForestConfig
    | BoostingConfig
    | XgboostConfig
    | CoxConfig
    | DiscreteSurvivalConfig
)
SolvedModelConfig = Annotated[AnySolved, Field(discriminator="kind")]


def of_path(path: PenaltyPath, position: int, loss: Literal["logistic", "squared"]) -> MarginModel:
    """One model of a penalty path, of the features that it keeps (none, where the penalty is too strong for any).

    Its covariance is left at zero, because a penalised fit has none.
    """
    kept = np.flatnonzero(path.coefficients[position])
    return MarginModel(
        names=tuple(path.names[j] for j in kept),
        centres=np.zeros(kept.size),
        scales=np.ones(kept.size),
        n_random=0,
        gamma=1.0,
        draw=0,
        intercept=float(path.intercepts[position]),
        coefficients=path.coefficients[position, kept],
        covariance=np.zeros((kept.size + 1, kept.size + 1)),
        loss=loss,
        objective=0.0,
    )
