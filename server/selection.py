"""One step of feature selection as a study asks for it: which procedure runs, and what it decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.config.table import (
    CorrelationSelection,
    InformationSelection,
    LassoSelection,
    MrmrSelection,
    SelectionConfig,
    StabilitySelection,
    UnivariateSelection,
    VarianceSelection,
)
from common.errors import StatisticError
from common.statistics.lasso import PenaltySettings, lasso
from common.statistics.moments import Scaler, moments
from common.statistics.procedure import Procedure
from common.statistics.ranking import Ranking
from common.statistics.selection_filters import uncorrelated, varying
from common.statistics.selection_information import mrmr, mutual_information
from common.statistics.selection_tests import analysis_of_variance, mann_whitney, welch
from common.statistics.stability import stable_lasso, stable_ranking
from common.statistics.table_steps import Step
from server.checkpoint import Unit
from server.learning import Learner


@dataclass(frozen=True)
class Selected:
    """What one step kept.

    Parameters
    ----------
    kind : str
    n_before : int
        Features that the step looked at.
    names : tuple of str
        Kept, in the order of the table.
    score : str
        What ``values`` are; empty where the step has no number a feature.
    values : mapping of name to float
    """

    kind: str
    n_before: int
    names: tuple[str, ...]
    score: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


Decision = tuple[tuple[str, ...], str, Mapping[str, float]]
"""Kept names, what the numbers are, and a number a feature."""


def select(config: SelectionConfig, names: Sequence[str], steps: Sequence[Step], learner: Learner) -> Selected:
    """Run one selection step over ``names`` on the table that ``steps`` leave.

    Raises
    ------
    StatisticError
        Where no feature is left, with the step's name; all that its procedure raises.
    """
    names = tuple(names)
    if isinstance(config, (LassoSelection, StabilitySelection)):
        scaler = Scaler.standard(learner.learn(moments(names), steps))
        steps = (*steps, scaler)
    return decided_by(config, names, learner.learn(_decision(config, names, learner.study.target.classes), steps))


def decided_by(config: SelectionConfig, names: tuple[str, ...], decision: Decision) -> Selected:
    """What a decision keeps of ``names``.

    Raises
    ------
    StatisticError
        Where that is nothing.
    """
    kept, score, values = decision
    if not kept:
        raise StatisticError(f"selection by {config.kind} leaves none of {len(names)} features")
    chosen = set(kept)
    return Selected(
        kind=config.kind,
        n_before=len(names),
        names=tuple(name for name in names if name in chosen),
        score=score,
        values={name: value for name, value in values.items() if name in chosen},
    )


def selection_unit(selected: Sequence[Selected]) -> Unit:
    """What each selection step kept, for the report."""
    listed = [
        {
            "kind": step.kind,
            "n_before": step.n_before,
            "names": list(step.names),
            "score": step.score,
            "values": [step.values[name] for name in step.names] if step.values else [],
        }
        for step in selected
    ]
    return Unit({}, {"steps": listed})


def selected_of_unit(unit: Unit) -> tuple[Selected, ...]:
    """What `selection_unit` saved."""
    return tuple(
        Selected(
            kind=step["kind"],
            n_before=step["n_before"],
            names=tuple(step["names"]),
            score=step["score"],
            values=dict(zip(step["names"], step["values"], strict=False)),
        )
        for step in unit.values["steps"]
    )


def _decision(config: SelectionConfig, names: tuple[str, ...], classes: Sequence[str]) -> Procedure[Decision]:
    match config:
        case VarianceSelection(minimum=minimum):
            learned = yield from moments(names)
            spread = dict(zip(names, learned.variance().tolist(), strict=True))
            return varying(learned, minimum_variance=minimum), "variance", spread
        case CorrelationSelection(largest=largest):
            return (yield from uncorrelated(names, largest=largest)), "", {}
        case UnivariateSelection():
            return (yield from _univariate(config, names, classes))
        case InformationSelection(keep=keep, n_bins=n_bins):
            ranking = yield from mutual_information(names, classes, n_bins=n_bins)
            return ranking.top(keep), "mutual information (nats)", _scores(ranking)
        case MrmrSelection(keep=keep, relevance=relevance, combination=combination):
            chosen = yield from mrmr(
                names, classes, n_selected=min(keep, len(names)), relevance=relevance, combination=combination
            )
            return chosen.names, "place", {name: float(i + 1) for i, name in enumerate(chosen.names)}
        case LassoSelection():
            return (yield from _lasso(config, names))
        case StabilitySelection():
            return (yield from _stability(config, names, classes))


def _univariate(config: UnivariateSelection, names: tuple[str, ...], classes: Sequence[str]) -> Procedure[Decision]:
    if config.test == "welch":
        ranking = yield from welch(names, classes)
    elif config.test == "anova":
        ranking = yield from analysis_of_variance(names, classes)
    else:
        ranking = (yield from mann_whitney(names, classes)).ranking
    return kept_of(config, ranking)


def kept_of(config: UnivariateSelection, ranking: Ranking) -> Decision:
    """The best features of a ranking, or those below the false discovery rate."""
    adjusted = ranking.false_discovery_rate()
    values = dict(zip(ranking.names, adjusted.tolist(), strict=True))
    if config.keep is not None:
        return ranking.top(config.keep), "false discovery rate", values
    assert config.false_discovery_rate is not None  # one of the two is given
    kept = tuple(name for name in ranking.names if values[name] <= config.false_discovery_rate)
    return kept, "false discovery rate", values


def _lasso(config: LassoSelection, names: tuple[str, ...]) -> Procedure[Decision]:
    path = yield from lasso(names, PenaltySettings(l1_ratio=config.l1_ratio, n_folds=config.n_folds))
    at = path.best if config.choose == "best" else path.simplest
    return path.selected(at), "coefficient", dict(zip(names, path.coefficients[at].tolist(), strict=True))


def _stability(config: StabilitySelection, names: tuple[str, ...], classes: Sequence[str]) -> Procedure[Decision]:
    keep = min(config.keep, len(names))
    if config.by == "lasso":
        found = yield from stable_lasso(names, n_selected=keep, n_draws=config.draws)
    else:
        found = yield from stable_ranking(names, classes, n_selected=keep, n_draws=config.draws)
    frequency = dict(zip(found.names, np.asarray(found.frequency).tolist(), strict=True))
    return found.stable(config.threshold), "selected in share of draws", frequency


def _scores(ranking: Ranking) -> dict[str, float]:
    return dict(zip(ranking.names, ranking.score.tolist(), strict=True))
