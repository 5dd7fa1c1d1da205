"""The training table of a study with private statistics: as few questions as will do, and no number that costs nothing.

One question gives the moments of every column by hospital; what drops out, fills in, harmonises and standardises
follows from them (`common.statistics.private_moments`). Two questions before it learn ranges where the study asks for
that, one each serves the guard of ComBat and every selection step that looks at cases.
`common.config.private_statistics.planned_questions` counts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.config.private_statistics import cost_of_a_question, declared_ranges
from common.config.table import CorrelationSelection, SelectionConfig, UnivariateSelection, VarianceSelection
from common.errors import StatisticError
from common.statistics.bounds import Bounds, learned_bounds
from common.statistics.combat import combat_of_moments
from common.statistics.combat_model import CombatSettings
from common.statistics.leakage import confounding
from common.statistics.linear_sums import GramRowsQuery
from common.statistics.moments import Imputer, Moments, Scaler
from common.statistics.private_moments import (
    imputed,
    moments_after,
    private_moments,
    select_moments,
    whole,
)
from common.statistics.procedure import Procedure
from common.statistics.quantiles import histogram_counts
from common.statistics.ranking import Ranking
from common.statistics.selection_filters import first_of_each, varying
from common.statistics.selection_tests import mann_whitney_of, variance_of, welch_of
from common.statistics.table_steps import Keep, Step, limits_after
from server.harmonisation import Harmonisation, outcome_labels
from server.learning import Learner
from server.selection import Selected, decided_by, kept_of

RANK_BINS = 32
"""Bins of the private Mann-Whitney statistic, of equal width within each column's range."""


@dataclass
class PrivateTable:
    """Steps so far, and the moments of each hospital's columns after them.

    Parameters
    ----------
    sites : tuple of str
        The course's trainers, in the order of ``groups``.
    """

    learner: Learner
    sites: tuple[str, ...]
    steps: list[Step] = field(default_factory=list)
    groups: tuple[Moments, ...] = ()

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.groups = moments_after(step, self.groups, batches=self.sites, fold=self.learner.fold)


def begin_private_table(learner: Learner, names: Sequence[str]) -> PrivateTable:
    """Ranges, moments, the columns that are of use, and what fills them in: one question, or three.

    Raises
    ------
    StatisticError
        Where a column has no range, or none is left.
    """
    study, sites = learner.study, learner.course.trainers
    table = PrivateTable(learner, sites)
    table.steps.append(_bounds(learner, tuple(names)))
    limits = limits_after(table.steps)
    raw = learner.learn(private_moments(names, limits, by="batch", groups=sites), table.steps)
    merged = whole(raw)
    kept = tuple(
        n for n, present, flat in zip(names, merged.present, merged.constant, strict=True) if present and not flat
    )
    if not kept:
        raise StatisticError(f"course {learner.course.name}: no column varies more than its noise")
    fill = select_moments(merged, kept).mean
    if study.table.impute == "mode":
        coded = {name for column in study.clinical if column.kind == "categorical" for name in column.coded_names}
        fill = np.where([name in coded for name in kept], np.rint(fill), fill)
    imputer = Imputer(kept, fill)
    table.steps += [Keep(kept), imputer]
    table.groups = tuple(imputed(group, imputer) for group in raw)
    return table


def _bounds(learner: Learner, names: tuple[str, ...]) -> Bounds:
    study = learner.study
    ranges = dict(declared_ranges(study, names))
    unknown = tuple(name for name in names if name not in ranges)
    private = study.privacy.statistics
    if unknown and not (private and private.learn_bounds):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise StatisticError(f"no range is declared of {', '.join(unknown[:5])}{more}: add bounds, or learn_bounds")
    if unknown:
        noise = cost_of_a_question(study).noise_multiplier
        std = noise * np.sqrt(len(unknown) * len(learner.course.trainers))
        found = learner.learn(learned_bounds(unknown, noise_std=float(std)), ())
        ranges |= {n: (float(a), float(b)) for n, a, b in zip(unknown, found.low, found.high, strict=True)}
    low, high = (np.array([ranges[name][end] for name in names]) for end in (0, 1))
    return Bounds(names, low, high)


def harmonise_privately(table: PrivateTable, names: Sequence[str]) -> Harmonisation:
    """ComBat between hospitals from the moments at hand, after one question for outcome by hospital.

    Raises
    ------
    StatisticError
        Where a hospital has one outcome label only, as far as noise lets one tell, and the study refuses that.
    """
    study, sites = table.learner.study, table.sites
    config = study.table.combat
    assert config is not None  # the caller harmonises where the study does
    if len(sites) < 2:
        return Harmonisation(None, None, None, (f"one batch ({', '.join(sites)}): nothing to harmonise",))
    found = table.learner.learn(confounding(sites, outcome_labels(study)[0]), table.steps)
    if found.one_label_batches and config.confounded == "refuse":
        raise StatisticError(
            f"hospitals with one outcome label only ({', '.join(found.one_label_batches)}): {found.sentence()}; "
            "harmonising them would remove the outcome with the hospital"
        )
    settings = CombatSettings(
        batches=sites,
        method=config.method,
        mean_only=config.mean_only,
        reference=config.reference if config.reference in sites else "",
        constant_in_batch=config.constant_in_batch,
        fold=table.learner.fold,
    )
    model = combat_of_moments(names, settings, [select_moments(group, names) for group in table.groups])
    notes = (*model.notes, f"private outcome by hospital: {found.sentence()}", "effect of batches not measured")
    model = replace(model, notes=notes)
    table.add(model)
    return Harmonisation(model, None, None, notes)


def select_privately(config: SelectionConfig, names: tuple[str, ...], table: PrivateTable) -> Selected:
    """One selection step over ``names``; no question for the variance, one for the others.

    Raises
    ------
    StatisticError
        Where no feature is left; for a kind that has no private version.
    """
    learned = select_moments(whole(table.groups), names)
    classes = table.learner.study.target.classes
    match config:
        case VarianceSelection(minimum=minimum):
            spread = dict(zip(names, learned.variance().tolist(), strict=True))
            return decided_by(config, names, (varying(learned, minimum_variance=minimum), "variance", spread))
        case CorrelationSelection(largest=largest):
            kept = table.learner.learn(_uncorrelated(learned, largest), table.steps)
            return decided_by(config, names, (kept, "", {}))
        case UnivariateSelection():
            ranking = table.learner.learn(_ranking(config.test, names, classes, table.steps), table.steps)
            return decided_by(config, names, kept_of(config, ranking))
    raise StatisticError(f"selection by {config.kind} has no private version")


def _uncorrelated(learned: Moments, largest: float) -> Procedure[tuple[str, ...]]:
    """Noise can push a correlation beyond 1; it is cut off there."""
    everything = tuple(range(len(learned.names)))
    sums = yield GramRowsQuery(learned.names, everything, 1, learned.mean)
    spread = np.sqrt(learned.m2)
    correlation = np.clip(sums["gram"][0] / np.outer(spread, spread), -1, 1)
    return first_of_each(learned.names, correlation, largest=largest)


def _ranking(test: str, names: tuple[str, ...], classes: Sequence[str], steps: Sequence[Step]) -> Procedure[Ranking]:
    limits = limits_after(steps)
    if test == "mann_whitney":
        low, high = limits.of(names)
        edges = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, RANK_BINS + 1)[1:-1]
        counts = yield from histogram_counts(names, edges, by="class", groups=classes)
        return mann_whitney_of(names, np.maximum(counts, 0), classes).ranking
    groups = yield from private_moments(names, limits, by="class", groups=classes)
    floor = np.maximum(whole(groups).m2 * 0.01, np.finfo(np.float64).tiny)  # noise can leave a class no spread
    groups = tuple(replace(group, m2=np.maximum(group.m2, floor)) for group in groups)
    return welch_of(groups, classes) if test == "welch" else variance_of(groups, classes)


def scaler_of(table: PrivateTable, columns: Sequence[str]) -> Scaler:
    """Means and standard deviations at hand; a column whose spread noise hid stays as it is."""
    return Scaler.standard(select_moments(whole(table.groups), columns), constant="keep")
