"""The learned steps that turn a site's features into its training table, and their way over the wire.

A step is a frozen value learned from merged sums (`moments`, `combat`, ...). Most change a table row by row; ComBat
needs each case's batch, and its covariates where these are kept. The closed union `TABLE_STEPS` is all that a site
will apply; a new kind is one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.errors import MessageError, PrivacyError, StatisticError
from common.messages import TableStep
from common.outcomes import ScalarOutcome
from common.statistics.bounds import Bounds, Limits
from common.statistics.codec import decode_fields, encode_fields
from common.statistics.combat_model import CombatModel, adapt
from common.statistics.moments import Imputer, Scaler
from common.statistics.pca import PrincipalComponents
from common.statistics.procedure import Cohort
from common.tables import FeatureTable

LARGEST = 1e100
"""Ends of a range lie below it: squares and sums of such values are finite."""

UnseenSites = Literal["adapt", "leave"]


@dataclass(frozen=True)
class Keep:
    """Only the named columns, in this order: what a selection decided."""

    names: tuple[str, ...]

    def apply(self, table: FeatureTable) -> FeatureTable:
        try:
            return table.select(self.names)
        except KeyError as absent:
            raise StatisticError(str(absent.args[0])) from absent


Step = Bounds | Keep | Imputer | Scaler | CombatModel | PrincipalComponents

TABLE_STEPS: Mapping[str, type[Step]] = {
    "bounds": Bounds,
    "keep": Keep,
    "imputer": Imputer,
    "scaler": Scaler,
    "combat": CombatModel,
    "components": PrincipalComponents,
}
_KIND_OF = {step_class: kind for kind, step_class in TABLE_STEPS.items()}


def encode_steps(steps: Sequence[Step]) -> tuple[TableStep, ...]:
    """Steps as plain values for a request."""
    return tuple(TableStep(_KIND_OF[type(step)], encode_fields(step)) for step in steps)


def decode_steps(steps: Sequence[TableStep]) -> tuple[Step, ...]:
    """Steps from a request; MessageError where a kind or a field is not as agreed."""
    decoded: list[Step] = []
    for step in steps:
        if step.kind not in TABLE_STEPS:
            raise MessageError(f"no table step of kind {step.kind!r}; there are {', '.join(TABLE_STEPS)}")
        decoded.append(decode_fields(TABLE_STEPS[step.kind], step.values))
    return tuple(decoded)


def apply_steps(
    cohort: Cohort,
    steps: Sequence[Step],
    *,
    fold: int,
    unseen: UnseenSites | None = None,
    outcome_known: bool = True,
) -> Cohort:
    """The cohort with its table after all steps, in order.

    Parameters
    ----------
    fold : int
        The fold being worked on; a ComBat model of another one is refused.
    unseen : {"adapt", "leave"}, optional
        What the study says of a batch that was not in ComBat's fit: learn its location and scale from the rows given
        here (all cases of the batch at this site, unlabelled), or leave it as it is. Without it such a batch is
        refused.
    outcome_known : bool
        False for held-out cases: a ComBat model that keeps the outcome as a covariate is then applied without
        covariates, so that no label reaches a feature.

    Raises
    ------
    StatisticError
        Where a step does not fit the table; all of `CombatModel.apply_to` and `adapt`.
    """
    for step in steps:
        if isinstance(step, CombatModel):
            model = step if outcome_known or not step.classes else step.without_covariates()
            cohort = _harmonised(model, cohort, fold=fold, unseen=unseen)
        elif isinstance(step, PrincipalComponents):
            cohort = replace(cohort, table=_components(step, cohort.table))
        else:
            cohort = replace(cohort, table=step.apply(cohort.table))
    return cohort


def columns_after(steps: Sequence[Step], names: Sequence[str]) -> tuple[str, ...]:
    """Columns of the table that had ``names`` before the steps."""
    for step in steps:
        if isinstance(step, PrincipalComponents):
            names = (*_component_names(step), *(name for name in names if name not in step.names))
        elif not isinstance(step, CombatModel):
            names = step.names
    return tuple(names)


def limits_after(steps: Sequence[Step]) -> Limits:
    """Ranges of the table's columns after the steps: they follow from the steps, never from a case.

    A column without a `Bounds` step has none. What an imputer fills in belongs to the range. ComBat keeps a column
    about where it was, so its range stays, and what it moves beyond is clipped.

    What is refused here is refused whatever the cases are. A step that fails on some cases only, because a value is
    missing or too large, would tell of them by failing.

    Raises
    ------
    PrivacyError
        After principal components, whose ranges nobody declared; for ComBat with covariates, or where values can be
        missing; where numbers become so large that their squares are none.
    """
    limits = Limits((), np.zeros(0), np.zeros(0))
    for step in steps:
        if isinstance(step, Bounds):
            _require_modest(step.low, step.high)
            limits = Limits(step.names, step.low, step.high)
        elif isinstance(step, Keep):
            limits = limits.keep([name for name in step.names if name in limits.names])
        elif isinstance(step, Imputer):
            low, high = limits.of(step.names)
            limits = Limits(step.names, np.minimum(low, step.fill), np.maximum(high, step.fill), complete=True)
            _require_modest(limits.low, limits.high)
        elif isinstance(step, Scaler):
            low, high = limits.of(step.names)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
                ends = (low - step.location) / step.scale, (high - step.location) / step.scale
            limits = Limits(step.names, *ends, limits.complete)
            _require_modest(limits.low, limits.high)
        elif isinstance(step, CombatModel):
            _require_plain(step, limits)
        elif isinstance(step, PrincipalComponents):
            raise PrivacyError("principal components have no declared range")
    return limits


def _require_plain(model: CombatModel, limits: Limits) -> None:
    """Refuse ComBat that could fail on some cases; the ends of all ranges are put through it, batch by batch."""
    if model.covariates.column_names or not limits.complete:
        raise PrivacyError("ComBat before a private answer has no covariates, and an imputer before it")
    rows = np.stack(limits.of(model.names))
    for batch in model.batches:
        ends = Cohort(
            table=FeatureTable(rows, model.names, ("low", "high")),
            clinical=FeatureTable(np.zeros((2, 0)), (), ("low", "high")),
            outcome=ScalarOutcome(np.zeros(2), "none"),
            batch=(batch, batch),
        )
        try:
            _require_modest(model.apply_to(ends, fold=model.fold).table.values)
        except ValueError as error:
            raise PrivacyError(f"ComBat of batch {batch} leaves the finite numbers") from error


def _require_modest(*values: npt.NDArray[np.float64]) -> None:
    if not all(bool((np.abs(array) < LARGEST).all()) for array in values):
        raise PrivacyError(f"a range beyond {LARGEST:g} is none")


def _harmonised(model: CombatModel, cohort: Cohort, *, fold: int, unseen: UnseenSites | None) -> Cohort:
    """Batches of the fit by the model, others as the study says."""
    strangers = sorted(set(cohort.batch) - set(model.batches))
    if not strangers or unseen is None:
        return model.apply_to(cohort, fold=fold)
    batch = np.array(cohort.batch, dtype=np.str_)
    known = np.flatnonzero(np.isin(batch, model.batches))
    parts = [(known, model.apply_to(cohort.take(known), fold=fold).table)]
    for name in strangers:
        rows = np.flatnonzero(batch == name)
        own = cohort.take(rows).table
        parts.append((rows, adapt(model, own, batch=name).apply(own) if unseen == "adapt" else own))
    values = np.empty_like(cohort.table.values)
    for rows, table in parts:
        values[rows] = table.values
    return replace(cohort, table=cohort.table.with_values(values))


def _components(step: PrincipalComponents, table: FeatureTable) -> FeatureTable:
    """The components, and behind them the columns that they are not made of."""
    rest = [name for name in table.names if name not in step.names]
    scores = step.apply(table)
    return scores.beside(table.select(rest)) if rest else scores


def _component_names(step: PrincipalComponents) -> tuple[str, ...]:
    return tuple(f"pca-{i + 1}" for i in range(len(step.components)))
