"""ComBat in a study: settings from the study file, the guard against leakage, the effect of batches before and after.

The effect is measured for the report; where the small-cell rule keeps it at the hospitals, the report says so and the
study goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.config.study import ClassOutcomeConfig, ScalarOutcomeConfig, StudyConfig
from common.config.table import CombatConfig
from common.errors import Code, FederationError, StatisticError
from common.statistics.batch_effect import BatchEffect, batch_effect
from common.statistics.combat_model import CombatModel, CombatSettings
from common.statistics.design import Covariates
from common.statistics.leakage import LeakageGuard, guarded_combat
from common.statistics.table_steps import Step
from server.checkpoint import Unit
from server.learning import Learner

RECOGNISED_BY = 60
"""Features, evenly spread over the table, by which the batch is recognised: more would be the largest thing sent."""


@dataclass(frozen=True, eq=False)
class Harmonisation:
    """What harmonisation did in one course and fold.

    Parameters
    ----------
    model : CombatModel or None
        None where there is one batch, and nothing to harmonise.
    before, after : BatchEffect or None
        None where it could not be measured.
    notes : tuple of str
        Sentences for the report.
    """

    model: CombatModel | None
    before: BatchEffect | None
    after: BatchEffect | None
    notes: tuple[str, ...]

    def to_unit(self) -> Unit:
        """Arrays and values for the checkpoint; the model itself is among the table's steps."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        values: dict[str, Any] = {"notes": list(self.notes)}
        for when, effect in (("before", self.before), ("after", self.after)):
            if effect is not None:
                arrays |= {f"{when}/between_share": effect.between_share, f"{when}/p_value": effect.p_value}
                values[when] = {"names": list(effect.names), "accuracy": effect.accuracy, "chance": effect.chance}
        return Unit(arrays, values)


def effect_of_unit(unit: Unit, when: str) -> BatchEffect | None:
    """The effect of batches "before" or "after", as `Harmonisation.to_unit` saved it."""
    if when not in unit.values:
        return None
    saved = unit.values[when]
    shares, p_value = (np.asarray(unit.arrays[f"{when}/{k}"], dtype=np.float64) for k in ("between_share", "p_value"))
    return BatchEffect(tuple(saved["names"]), shares, p_value, saved["accuracy"], saved["chance"])


def harmonise(
    config: CombatConfig, names: Sequence[str], batches: Sequence[str], steps: Sequence[Step], learner: Learner
) -> Harmonisation:
    """Fit ComBat on the training cases of a fold and measure what it did.

    Raises
    ------
    StatisticError
        All of `common.statistics.leakage.guarded_combat`: batch and outcome confounded, with the numbers; collinear
        covariates; batches that are too small.
    """
    batches = tuple(batches)
    if len(batches) < 2:
        return Harmonisation(None, None, None, (f"one batch ({', '.join(batches)}): nothing to harmonise",))
    settings = CombatSettings(
        batches=batches,
        covariates=_covariates(config, learner.study),
        method=config.method,
        mean_only=config.mean_only,
        reference=config.reference if config.reference in batches else "",
        constant_in_batch=config.constant_in_batch,
        fold=learner.fold,
    )
    if config.reference and not settings.reference:
        raise StatisticError(f"reference batch {config.reference} is not among {', '.join(batches)}")
    guard = LeakageGuard(
        outcome_columns=tuple(sorted(learner.study.outcome_columns)),
        outcome_kept_because=config.outcome_kept_because,
        confounded=config.confounded,
    )
    labels, n_codes = outcome_labels(learner.study)
    before = _measured(names, batches, steps, learner)
    procedure = guarded_combat(names, settings, guard, labels=labels, n_codes=n_codes)
    model, _ = learner.learn(procedure, steps)
    after = _measured(names, batches, (*steps, model), learner)
    refused = [reason for reason in (before, after) if isinstance(reason, str)]
    notes = (*model.notes, *(f"effect of batches not measured: {reason}" for reason in dict.fromkeys(refused)))
    return Harmonisation(
        model,
        before if isinstance(before, BatchEffect) else None,
        after if isinstance(after, BatchEffect) else None,
        notes,
    )


def outcome_labels(study: StudyConfig) -> tuple[tuple[str, ...], int]:
    """Labels by which batch and outcome are compared, and the number of columns of the coded outcome."""
    outcome = study.outcome
    if isinstance(outcome, ClassOutcomeConfig):
        return outcome.names, len(outcome.names) - 1
    return (("all",), 1) if isinstance(outcome, ScalarOutcomeConfig) else (("censored", "event"), 2)


def _covariates(config: CombatConfig, study: StudyConfig) -> Covariates:
    chosen = [column for column in study.clinical if column.column in config.covariates]
    coded = tuple(name for column in chosen if column.kind == "categorical" for name in column.coded_names)
    keeps = bool(config.outcome_kept_because) and isinstance(study.outcome, ClassOutcomeConfig)
    return Covariates(
        continuous=tuple(column.column for column in chosen if column.kind == "numeric"),
        categorical=coded,
        level_counts=(2,) * len(coded),
        levels=(0.0, 1.0) * len(coded),
        classes=study.target.classes if keeps else (),
    )


def _measured(
    names: Sequence[str], batches: tuple[str, ...], steps: Sequence[Step], learner: Learner
) -> BatchEffect | str:
    """The effect of batches, or why the hospitals could not tell it."""
    shown = tuple(dict.fromkeys(names[round(i)] for i in np.linspace(0, len(names) - 1, RECOGNISED_BY)))
    try:
        return learner.learn(batch_effect(names, batches, recognised_by=shown), steps)
    except StatisticError as error:
        return str(error)
    except FederationError as error:
        if error.code not in (Code.SMALL_CELL, Code.STATISTIC):
            raise
        return str(error)
