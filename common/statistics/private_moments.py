"""Moments in one question, and all that follows from them without a further one: a private answer is paid each time.

`common.statistics.moments` asks twice, first for means and then about them. Here the centre is the middle of each
column's public range. Imputation, ComBat without covariates and scaling change rows affinely within a batch, so the
moments behind them are computed (`moments_after`), not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.outcomes import ScalarOutcome
from common.statistics.bounds import Limits
from common.statistics.columns import Grouping
from common.statistics.moments import Imputer, MomentQuery, Moments
from common.statistics.procedure import Cohort, Procedure
from common.statistics.table_steps import Step, apply_steps
from common.tables import FeatureTable


def private_moments(
    names: Sequence[str], limits: Limits, *, by: Grouping, groups: Sequence[str]
) -> Procedure[tuple[Moments, ...]]:
    """Moments of each group of cases, in the order of ``groups``: one question to every site.

    Where noise makes a spread negative it is 0, and the column counts as constant.
    """
    low, high = limits.of(names)
    centres = np.tile((low + high) / 2, (len(groups), 1))
    sums = yield MomentQuery(tuple(names), by, tuple(groups), centres, order=2)
    present = np.maximum(sums["present"], 1)
    shift = sums["power_1"] / present
    m2 = np.maximum(sums["power_2"] - sums["power_1"] * shift, 0.0)
    mean = np.clip(centres + shift, low, high)
    return tuple(
        Moments(tuple(names), int(sums["cases"][g]), sums["present"][g], mean[g], m2[g]) for g in range(len(groups))
    )


def whole(groups: Sequence[Moments]) -> Moments:
    """Moments of all groups together."""
    merged = groups[0]
    for group in groups[1:]:
        merged = merged.merge(group)
    return merged


def select_moments(moments: Moments, names: Sequence[str]) -> Moments:
    """The moments of some columns, in the given order."""
    place = {name: j for j, name in enumerate(moments.names)}
    chosen = [place[name] for name in names]
    return Moments(tuple(names), moments.n_cases, moments.present[chosen], moments.mean[chosen], moments.m2[chosen])


def imputed(moments: Moments, imputer: Imputer) -> Moments:
    """Moments of the imputer's columns after its values took the place of missing ones."""
    known = select_moments(moments, imputer.names)
    n = max(known.n_cases, 1)
    missing = np.maximum(known.n_cases - known.present, 0)
    present = known.n_cases - missing
    mean = (present * known.mean + missing * imputer.fill) / n
    m2 = known.m2 + present * (known.mean - mean) ** 2 + missing * (imputer.fill - mean) ** 2
    return Moments(known.names, known.n_cases, np.full(len(known.names), known.n_cases), mean, m2)


def moments_after(step: Step, groups: Sequence[Moments], *, batches: Sequence[str], fold: int) -> tuple[Moments, ...]:
    """Moments of each batch after a step that is affine within a batch and leaves no value missing.

    Two made-up rows, at the mean and one standard deviation above it, are put through the step itself.
    """
    return tuple(_after(step, group, batch, fold) for group, batch in zip(groups, batches, strict=True))


def _after(step: Step, group: Moments, batch: str, fold: int) -> Moments:
    n = np.maximum(group.present, 1)
    rows = np.stack([group.mean, group.mean + np.sqrt(group.m2 / n)])
    ids = ("mean", "mean and spread")
    made_up = Cohort(
        table=FeatureTable(rows, group.names, ids),
        clinical=FeatureTable(np.zeros((2, 0)), (), ids),
        outcome=ScalarOutcome(np.zeros(2), "none"),
        batch=(batch, batch),
    )
    table = apply_steps(made_up, (step,), fold=fold).table
    kept = replace(select_moments(group, table.names), mean=table.values[0])
    return replace(kept, m2=(table.values[1] - table.values[0]) ** 2 * kept.present)
