"""Guard of harmonisation: the outcome stays out, and batches that are confounded with it are found before the fit.

Preserving the outcome as a ComBat covariate moves features of test cases by their labels and inflates every later
performance figure; where a batch holds one class only, removing the batch removes the signal too. Fits are per training
fold already: a query sees the cases of the current fold only, and `CombatModel.apply_to` refuses another fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, group_rows, indicator, sizes
from common.statistics.combat import combat
from common.statistics.combat_model import CombatModel, CombatSettings
from common.statistics.design import Covariates
from common.statistics.outcome_groups import outcome_codes, outcome_labels
from common.statistics.procedure import Cohort, Procedure, Sums

DISGUISED = 0.999
"""Share of the variance from which a covariate is the outcome under another name."""


@dataclass(frozen=True, eq=False)
class BatchOutcomeQuery:
    """Cases of each batch by outcome label, counted up label by label: shape (n_batches, n_labels)."""

    kind: ClassVar[str] = "batch_outcome"
    cumulative: ClassVar[tuple[str, ...]] = ("counts",)
    batches: tuple[str, ...]
    labels: tuple[str, ...]

    def summarise(self, cohort: Cohort) -> Sums:
        values, names = outcome_labels(cohort)
        if names != self.labels:
            raise StatisticError(f"outcome labels {names} at this site, the study agreed on {self.labels}")
        member = indicator(group_rows(cohort, "batch", self.batches), len(self.batches))
        counts = member.T @ indicator(values, len(self.labels))
        return {"counts": np.cumsum(counts, axis=1).astype(np.int64)}

    def case_counts(self, cohort: Cohort) -> Indices:
        return sizes(group_rows(cohort, "batch", self.batches), len(self.batches))


@dataclass(frozen=True, eq=False)
class CovariateOutcomeQuery:
    """Sums and products of coded covariates and coded outcome, about given centres.

    Parameters
    ----------
    continuous, categorical, level_counts, levels
        As in `common.statistics.design.Covariates`.
    n_codes : int
        Columns of the coded outcome: classes but the first, or the value, or event and time.
    centres : ndarray of float64, shape (n_covariates + n_codes,)
    """

    kind: ClassVar[str] = "covariate_outcome"
    cumulative: ClassVar[tuple[str, ...]] = ()
    continuous: tuple[str, ...]
    categorical: tuple[str, ...]
    level_counts: tuple[int, ...]
    levels: tuple[float, ...]
    n_codes: int
    centres: Matrix

    def __post_init__(self) -> None:
        if self.centres.shape != (len(self.covariates.column_names) + self.n_codes,):
            raise ValueError(f"centres {self.centres.shape} do not fit the covariates and {self.n_codes} outcome codes")

    @property
    def covariates(self) -> Covariates:
        return Covariates(self.continuous, self.categorical, self.level_counts, self.levels)

    def summarise(self, cohort: Cohort) -> Sums:
        codes = outcome_codes(cohort)
        if codes.shape[1] != self.n_codes:
            raise StatisticError(
                f"the outcome has {codes.shape[1]} codes at this site, the study agreed on {self.n_codes}"
            )
        both = np.hstack([self.covariates.code(cohort), codes]) - self.centres
        return {"cases": np.array([len(both)], dtype=np.int64), "sums": both.sum(axis=0), "products": both.T @ both}

    def case_counts(self, cohort: Cohort) -> Indices:
        labels, names = outcome_labels(cohort)
        member = indicator(labels, len(names))
        return self.covariates.cell_sizes(cohort, member)


@dataclass(frozen=True)
class LeakageGuard:
    """What the study says about outcome and harmonisation.

    Parameters
    ----------
    outcome_columns : tuple of str
        Clinical columns that are the outcome or derive from it.
    outcome_kept_because : str
        Why the outcome is a covariate, in the study's words; empty: it may not be.
    confounded : {"refuse", "without_outcome"}
        Where a batch holds one outcome label only: refuse with the numbers, or harmonise without the outcome and say
        so.
    """

    outcome_columns: tuple[str, ...] = ()
    outcome_kept_because: str = ""
    confounded: Literal["refuse", "without_outcome"] = "refuse"


@dataclass(frozen=True, eq=False)
class Confounding:
    """How batch and outcome hang together.

    Parameters
    ----------
    batches, labels : tuple of str
    counts : ndarray of int64, shape (n_batches, n_labels)
        Rounded by the sites' small-cell rule.
    """

    batches: tuple[str, ...]
    labels: tuple[str, ...]
    counts: Indices

    @property
    def one_label_batches(self) -> tuple[str, ...]:
        """Batches all of whose cases have one label, where the study has several."""
        if np.count_nonzero(self.counts.sum(axis=0)) < 2:
            return ()
        alone = (np.count_nonzero(self.counts, axis=1) == 1).tolist()
        return tuple(name for name, single in zip(self.batches, alone, strict=True) if single)

    @property
    def cramers_v(self) -> float:
        """Association from 0 (none) to 1 (batch and outcome determine one another), Cramer 1946."""
        table = self.counts[:, self.counts.sum(axis=0) > 0].astype(np.float64)
        table = table[table.sum(axis=1) > 0]
        if min(table.shape) < 2:
            return 0.0
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        chi_square = float(((table - expected) ** 2 / expected).sum())
        return float(np.sqrt(chi_square / (table.sum() * (min(table.shape) - 1))))

    def sentence(self) -> str:
        """The numbers, for an error or the report."""
        rows = [
            f"{batch}: " + ", ".join(f"{n} {label}" for n, label in zip(counts, self.labels, strict=True))
            for batch, counts in zip(self.batches, self.counts, strict=True)
        ]
        return f"{'; '.join(rows)} (Cramer's V {self.cramers_v:.2f})"


def confounding(batches: Sequence[str], labels: Sequence[str]) -> Procedure[Confounding]:
    """Outcome labels by batch over all sites."""
    batches, labels = tuple(batches), tuple(labels)
    sums = yield BatchOutcomeQuery(batches, labels)
    return Confounding(batches, labels, np.diff(sums["counts"], axis=1, prepend=0))


def guarded_combat(
    names: Sequence[str], settings: CombatSettings, guard: LeakageGuard, *, labels: Sequence[str], n_codes: int
) -> Procedure[tuple[CombatModel, Confounding]]:
    """ComBat behind the guard.

    Parameters
    ----------
    labels : sequence of str
        Outcome classes, ``("censored", "event")`` for survival, ``("all",)`` for a scalar outcome.
    n_codes : int
        As in `CovariateOutcomeQuery`.

    Raises
    ------
    StatisticError
        Where the outcome is a covariate without a reason, by name or in disguise; where batch and outcome are
        confounded and the guard refuses that; and all of `combat`.
    """
    if not guard.outcome_kept_because:
        _refuse_outcome(settings.covariates, guard)
        yield from _refuse_disguise(settings.covariates, n_codes)
    found = yield from confounding(settings.batches, labels)
    notes = [f"outcome by batch: {found.sentence()}"]
    if found.one_label_batches:
        which = f"batches with one outcome label only ({', '.join(found.one_label_batches)}): {found.sentence()}"
        if guard.confounded == "refuse":
            raise StatisticError(
                f"{which}; harmonising them would remove the outcome with the batch. Leave them out, merge batches, or "
                "set confounded to without_outcome"
            )
        settings = replace(settings, covariates=replace(settings.covariates, classes=()))
        notes.append(f"harmonised without the outcome as a covariate, though there are {which}")
    elif settings.covariates.classes:
        notes.append(f"the outcome was kept as a covariate because {guard.outcome_kept_because}")
    model = yield from combat(names, settings)
    return replace(model, notes=(*model.notes, *notes)), found


def _refuse_outcome(covariates: Covariates, guard: LeakageGuard) -> None:
    named = [name for name in covariates.clinical_columns if name in guard.outcome_columns]
    if covariates.classes or named:
        raise StatisticError(
            f"the outcome ({', '.join(named or covariates.classes)}) is a covariate of the harmonisation: labels would "
            "leak into the features; leave it out, or say why in outcome_kept_because"
        )


def _refuse_disguise(covariates: Covariates, n_codes: int) -> Procedure[None]:
    """Raise where a covariate determines the outcome, or follows from it, linearly."""
    k = len(covariates.column_names)
    if not k:
        return
    spec = (covariates.continuous, covariates.categorical, covariates.level_counts, covariates.levels, n_codes)
    sums = yield CovariateOutcomeQuery(*spec, np.zeros(k + n_codes))
    n = float(sums["cases"][0])
    sums = yield CovariateOutcomeQuery(*spec, sums["sums"] / n)
    products = sums["products"] - np.outer(sums["sums"], sums["sums"]) / n
    outcome = np.arange(k, k + n_codes)
    start = 0
    widths = (*covariates.level_counts, *(2 for _ in covariates.continuous))
    for name, width in zip(covariates.clinical_columns, widths, strict=True):
        block = np.arange(start, start + width - 1)
        start += width - 1
        shares = [_explained(products, int(target), block) for target in outcome]
        shares += [_explained(products, int(target), outcome) for target in block]
        if max(shares) > DISGUISED:
            raise StatisticError(
                f"covariate {name} is the outcome under another name ({max(shares):.4f} of the variance in common): "
                "leave it out, or say why in outcome_kept_because"
            )


def _explained(products: Matrix, target: int, by: Indices) -> float:
    """Share of the target's variance that a linear function of ``by`` explains."""
    total = float(products[target, target])
    if total <= 0.0:
        return 0.0
    weights = np.linalg.lstsq(products[np.ix_(by, by)], products[by, target], rcond=1e-10)[0]
    return float(products[by, target] @ weights) / total
