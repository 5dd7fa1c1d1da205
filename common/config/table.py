"""`[table]` of a study: how features become the training table. All is learned from merged sums of training cases.

The steps run in one order: features that are missing or constant go, missing values are filled in, batches are
harmonised, features are selected, columns are standardised, components are taken. Harmonisation, selection and
components concern the radiomics columns; clinical columns, which the study chose by name, always stay.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from common.config.fields import ColumnName, Fraction
from common.config.loading import Frozen, refuse, require

HOSPITAL = "site"
"""``table.combat.batch`` where each hospital is one batch."""


class CombatConfig(Frozen):
    """ComBat between batches, fitted on the training cases of each fold alone.

    Parameters
    ----------
    batch : str
        ``site``: each hospital is a batch. Otherwise the manifest's column of scanners: a batch is a scanner within a
        hospital, named ``site/scanner``; these labels leave the hospital. Scanners with few cases are one batch.
    covariates : tuple of str
        Clinical columns whose effect on the features is kept; they must exclude cases that lack them.
    method : {"parametric", "nonparametric", "none"}
        Empirical Bayes over features, or none.
    mean_only : bool
        Adjust locations and leave scales.
    reference : str
        A batch that stays as it is; empty for the grand mean.
    constant_in_batch : {"location_only", "refuse"}
        A feature that does not vary within one batch: adjust its location, or refuse with its name.
    confounded : {"refuse", "without_outcome"}
        Where a batch holds one outcome label only: refuse with the numbers, or harmonise without the outcome.
    outcome_kept_because : str
        Why the outcome is kept as a covariate. Empty, the rule: it is not looked at. Held-out cases are then
        harmonised without any covariate, because their outcome is what is to be predicted.
    unseen_sites : {"adapt", "leave"}
        What a batch does that was not in the fit (an external hospital, one left out): learn location and scale from
        its own unlabelled cases, which stay there; or leave its features as they are.
    """

    batch: ColumnName = HOSPITAL
    covariates: tuple[ColumnName, ...] = ()
    method: Literal["parametric", "nonparametric", "none"] = "parametric"
    mean_only: bool = False
    reference: str = ""
    constant_in_batch: Literal["location_only", "refuse"] = "location_only"
    confounded: Literal["refuse", "without_outcome"] = "refuse"
    outcome_kept_because: Annotated[str, Field(max_length=500)] = ""
    unseen_sites: Literal["adapt", "leave"] | None = None

    @property
    def batch_column(self) -> str | None:
        """The manifest's column of scanners, or None where each hospital is a batch."""
        return None if self.batch == HOSPITAL else self.batch


class VarianceSelection(Frozen):
    """Features whose variance exceeds ``minimum``."""

    kind: Literal["variance"]
    minimum: NonNegativeFloat = 0.0


class CorrelationSelection(Frozen):
    """Of two features that correlate above ``largest``, the first stays."""

    kind: Literal["correlation"]
    largest: Fraction


class UnivariateSelection(Frozen):
    """The best ``keep`` features by a test between classes, or those below a false discovery rate."""

    kind: Literal["univariate"]
    test: Literal["welch", "anova", "mann_whitney"] = "welch"
    keep: PositiveInt | None = None
    false_discovery_rate: Fraction | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> UnivariateSelection:
        faults: list[str] = []
        one = (self.keep is None) != (self.false_discovery_rate is None)
        require(one, "give either keep or false_discovery_rate", faults)
        refuse(faults)
        return self


class InformationSelection(Frozen):
    """The ``keep`` features with most mutual information with the class, on bins of equal counts."""

    kind: Literal["mutual_information"]
    keep: PositiveInt
    n_bins: Annotated[int, Field(ge=2, le=100)] = 10


class MrmrSelection(Frozen):
    """Minimum redundancy, maximum relevance: ``keep`` features that tell of the class and do not repeat each other."""

    kind: Literal["mrmr"]
    keep: PositiveInt
    relevance: Literal["mutual_information", "anova"] = "mutual_information"
    combination: Literal["difference", "quotient"] = "quotient"


class LassoSelection(Frozen):
    """Features with a coefficient in the LASSO (or elastic net) of standardised features, by cross-validation.

    Parameters
    ----------
    l1_ratio : float
        1 is LASSO.
    n_folds : int
        Folds of training cases; under the small-cell rule each hospital needs its minimum in every fold and class.
    choose : {"best", "simplest"}
        Penalty with the least held-out loss, or the largest one within a standard error of it.
    """

    kind: Literal["lasso"]
    l1_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    n_folds: Annotated[int, Field(ge=2, le=20)] = 5
    choose: Literal["best", "simplest"] = "best"


class StabilitySelection(Frozen):
    """Features that are selected in at least ``threshold`` of ``draws`` random halves of the cases.

    Parameters
    ----------
    by : {"welch", "lasso"}
        What selects in each draw: the largest Welch t, or the first to enter the LASSO path.
    keep : int
        Features selected in each draw.
    """

    kind: Literal["stability"]
    by: Literal["welch", "lasso"] = "welch"
    keep: PositiveInt
    draws: Annotated[int, Field(ge=10, le=1000)] = 100
    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.6


SelectionConfig = Annotated[
    VarianceSelection
    | CorrelationSelection
    | UnivariateSelection
    | InformationSelection
    | MrmrSelection
    | LassoSelection
    | StabilitySelection,
    Field(discriminator="kind"),
]


class PcaConfig(Frozen):
    """The radiomics columns become their ``n_components`` principal components."""

    n_components: PositiveInt


class TableConfig(Frozen):
    """How features become a training table.

    Parameters
    ----------
    impute : {"mean", "median", "mode"}
        What fills missing values; the mode concerns coded clinical categories, numbers take the mean then.
    missing_feature : {"refuse", "drop"}
        A column of which a training hospital has no value at all: refuse with both names, or drop it everywhere.
    """

    impute: Literal["mean", "median", "mode"] = "mean"
    missing_feature: Literal["refuse", "drop"] = "refuse"
    combat: CombatConfig | None = None
    selection: tuple[SelectionConfig, ...] = ()
    standardise: bool = True
    pca: PcaConfig | None = None
