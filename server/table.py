"""The statistics phase: what the training table needs to know about all training cases, learned from merged sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.config.study import StudyConfig
from common.errors import StatisticError
from common.messages import TableStep
from common.statistics.moments import Imputer, Scaler, moments
from common.statistics.pca import principal_components
from common.statistics.quantiles import median_imputer, mode_imputer
from common.statistics.table_steps import Keep, Step, columns_after, decode_steps, encode_steps
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import Course
from server.harmonisation import Harmonisation, harmonise
from server.learning import Learner
from server.private_table import (
    begin_private_table,
    harmonise_privately,
    scaler_of,
    select_privately,
)
from server.robustness import robust_features
from server.selection import Selected, select, selection_unit


@dataclass(frozen=True, eq=False)
class LearnedTable:
    """The steps of a course's training table, and how they came about.

    Parameters
    ----------
    harmonisation : Harmonisation or None
        None where the study does not harmonise.
    selected : tuple of Selected
        One a selection step of the study.
    """

    steps: tuple[Step, ...]
    harmonisation: Harmonisation | None
    selected: tuple[Selected, ...]


def table_of(
    study: StudyConfig,
    course: Course,
    fold: int,
    names: Sequence[str],
    conversation: Conversation,
    store: CheckpointStore,
    *,
    batches: Sequence[str] = (),
) -> tuple[Step, ...]:
    """The learned table steps of a course: from the checkpoint, or from the sites."""
    if not any(entry.model.needs_table for entry in study.models):
        return ()
    name = f"table.{course.name}.fold{fold}"
    saved = store.load(name)
    if saved is None:
        robust = robust_features(study, course, fold, conversation, store)
        left = names if robust is None else robust.left_of(names)
        learned = learn_table(study, left, course, fold, conversation, batches=batches)
        if learned.harmonisation is not None:
            store.save(f"harmonisation.{course.name}.fold{fold}", learned.harmonisation.to_unit())
        selected = learned.selected if robust is None else (robust.selected(), *learned.selected)
        if selected:
            store.save(f"selection.{course.name}.fold{fold}", selection_unit(selected))
        saved = steps_to_unit(learned.steps)
        store.save(name, saved)
        conversation.journal.write("table", course=course.name, fold=fold)
    return steps_from_unit(saved)


def learn_table(
    study: StudyConfig,
    names: Sequence[str],
    course: Course,
    fold: int,
    conversation: Conversation,
    *,
    batches: Sequence[str] = (),
) -> LearnedTable:
    """All steps of the training table, from the course's trainers.

    The steps are learned in the order in which they will be applied, each from the table that the former ones leave:
    the same as scikit-learn's ``SimpleImputer``, neuroCombat, ``StandardScaler`` and ``PCA`` on the pooled training
    rows (a median is exact up to the small-cell rule, see `common.statistics.quantiles`).

    Parameters
    ----------
    batches : sequence of str
        ComBat's batches of the trainers.

    Raises
    ------
    StatisticError
        If no feature is left; all that harmonisation and selection refuse.
    """
    learner = Learner(study, course, fold, conversation)
    if study.privacy.statistics is not None:
        return _learn_privately(study, tuple(names), learner)
    clinical = set(study.clinical_names)
    steps: list[Step] = [Keep(_usable(learner, tuple(names)))]
    steps.append(_imputer(learner, columns_after(steps, names), steps))
    columns = columns_after(steps, names)
    radiomics = tuple(name for name in columns if name not in clinical)
    harmonisation = None
    if study.table.combat is not None and radiomics:
        harmonisation = harmonise(study.table.combat, radiomics, batches, steps, learner)
        steps += [harmonisation.model] if harmonisation.model is not None else []
    selected: list[Selected] = []
    for config in study.table.selection:
        if not radiomics:
            break
        selected.append(select(config, radiomics, steps, learner))
        radiomics = selected[-1].names
        columns = tuple(name for name in columns if name in clinical or name in set(radiomics))
        steps.append(Keep(columns))
    if study.table.standardise:
        steps.append(Scaler.standard(learner.learn(moments(columns), steps)))
    if study.table.pca is not None and radiomics:
        steps.append(learner.learn(principal_components(radiomics, study.table.pca.n_components), steps))
    return LearnedTable(tuple(steps), harmonisation, tuple(selected))


def _learn_privately(study: StudyConfig, names: tuple[str, ...], learner: Learner) -> LearnedTable:
    """The same steps in the same order, from private answers."""
    table = begin_private_table(learner, names)
    clinical = set(study.clinical_names)
    columns = columns_after(table.steps, names)
    radiomics = tuple(name for name in columns if name not in clinical)
    harmonisation = harmonise_privately(table, radiomics) if study.table.combat is not None and radiomics else None
    selected: list[Selected] = []
    for config in study.table.selection if radiomics else ():
        selected.append(select_privately(config, radiomics, table))
        radiomics = selected[-1].names
        columns = tuple(name for name in columns if name in clinical or name in set(radiomics))
        table.add(Keep(columns))
    if study.table.standardise:
        table.add(scaler_of(table, columns))
    return LearnedTable(tuple(table.steps), harmonisation, tuple(selected))


def _usable(learner: Learner, names: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that some training case has, and that vary."""
    raw = learner.learn(moments(names), ())
    kept = tuple(
        n for n, present, flat in zip(raw.names, raw.present, raw.constant, strict=True) if present and not flat
    )
    if not kept:
        raise StatisticError(
            f"course {learner.course.name}: every feature is missing or constant over the training cases"
        )
    return kept


def _imputer(learner: Learner, names: tuple[str, ...], steps: Sequence[Step]) -> Imputer:
    impute = learner.study.table.impute
    if impute == "median":
        return learner.learn(median_imputer(names), steps)
    means = Imputer.mean(learner.learn(moments(names), steps))
    categories = [c for c in learner.study.clinical if c.kind == "categorical"] if impute == "mode" else []
    coded = tuple(name for column in categories for name in column.coded_names if name in names)
    if not coded:
        return means
    fill = dict(zip(coded, learner.learn(mode_imputer(coded, (0.0, 1.0)), steps).fill, strict=True))
    return Imputer(names, np.array([fill.get(name, mean) for name, mean in zip(names, means.fill, strict=True)]))


def steps_to_unit(steps: Sequence[Step]) -> Unit:
    """Learned table steps as arrays and values."""
    return entries_to_unit(encode_steps(steps))


def steps_from_unit(unit: Unit) -> tuple[Step, ...]:
    """Table steps as `steps_to_unit` saved them."""
    return decode_steps(entries_from_unit(unit))


def entries_to_unit(entries: Sequence[TableStep]) -> Unit:
    """Encoded steps, or parts of a solution, as arrays and values."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    listed: list[dict[str, Any]] = []
    for position, entry in enumerate(entries):
        plain = {key: value for key, value in entry.values.items() if not isinstance(value, np.ndarray)}
        arrays |= {f"{position}/{k}": v for k, v in entry.values.items() if isinstance(v, np.ndarray)}
        listed.append({"kind": entry.kind, "values": plain})
    return Unit(arrays, {"steps": listed})


def entries_from_unit(unit: Unit) -> tuple[TableStep, ...]:
    """What `entries_to_unit` saved."""
    entries = []
    for position, entry in enumerate(unit.values["steps"]):
        # JSON has no tuples
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["values"].items()}
        prefix = f"{position}/"
        values |= {k.removeprefix(prefix): v for k, v in unit.arrays.items() if k.startswith(prefix)}
        entries.append(TableStep(entry["kind"], values))
    return tuple(entries)
