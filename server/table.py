"""The statistics phase: what the training table needs to know about all training cases, learned from merged sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.config.study import StudyConfig
from common.errors import StatisticError
from common.messages import AskStatistic, StatisticSums, Sums, TableStep
from common.statistics import encode_query
from common.statistics.moments import Imputer, Scaler, moments
from common.statistics.procedure import Query, run
from common.statistics.table_steps import Keep, Step, decode_steps, encode_steps
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import Course


def table_of(
    study: StudyConfig,
    course: Course,
    fold: int,
    names: Sequence[str],
    conversation: Conversation,
    store: CheckpointStore,
) -> tuple[Step, ...]:
    """The learned table steps of a course: from the checkpoint, or from the sites."""
    if not any(entry.model.needs_table for entry in study.models):
        return ()
    name = f"table.{course.name}.fold{fold}"
    saved = store.load(name)
    if saved is None:
        steps = learn_table(study, names, course, fold, conversation)
        saved = steps_to_unit(steps)
        store.save(name, saved)
        conversation.journal.write("table", course=course.name, fold=fold)
    return steps_from_unit(saved)


def learn_table(
    study: StudyConfig, names: Sequence[str], course: Course, fold: int, conversation: Conversation
) -> tuple[Step, ...]:
    """Selection, imputation and scaling of the training table, from the course's trainers.

    The steps are learned in the order in which they will be applied, each from the table that the former ones leave:
    the same as scikit-learn's ``SimpleImputer`` and ``StandardScaler`` on the pooled training rows.

    Raises
    ------
    StatisticError
        If no feature is left.
    """
    steps: list[Step] = []

    def ask(query: Query) -> Sequence[Sums]:
        return ask_sites(query, study, course, fold, steps, conversation)

    raw = run(moments(tuple(names)), ask)
    kept = tuple(
        n for n, present, flat in zip(raw.names, raw.present, raw.constant, strict=True) if present and not flat
    )
    if not kept:
        raise StatisticError(f"course {course.name}: every feature is missing or constant over the training cases")
    steps.append(Keep(kept))
    steps.append(Imputer.mean(run(moments(kept), ask)))
    if study.table.standardise:
        steps.append(Scaler.standard(run(moments(kept), ask)))
    return tuple(steps)


def ask_sites(
    query: Query,
    study: StudyConfig,
    course: Course,
    fold: int,
    steps: Sequence[Step],
    conversation: Conversation,
) -> Sequence[Sums]:
    """Put one query to the course's trainers; their sums in sorted order of sites."""
    kind, values = encode_query(query)
    request = AskStatistic(
        study_digest=conversation.study_digest,
        fold=fold,
        kind=kind,
        values=values,
        table_steps=encode_steps(steps),
    )
    replies = conversation.all_of(
        dict.fromkeys(course.trainers, request),
        StatisticSums,
        deadline_s=study.federated.round_deadline_s,
        phase="statistics",
    )
    return [reply.sums for reply in replies.values()]


def steps_to_unit(steps: Sequence[Step]) -> Unit:
    """Learned table steps as arrays and values."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    listed = []
    for position, step in enumerate(encode_steps(steps)):
        plain = {key: value for key, value in step.values.items() if not isinstance(value, np.ndarray)}
        arrays |= {f"{position}/{k}": v for k, v in step.values.items() if isinstance(v, np.ndarray)}
        listed.append({"kind": step.kind, "values": plain})
    return Unit(arrays, {"steps": listed})


def steps_from_unit(unit: Unit) -> tuple[Step, ...]:
    """Table steps as `steps_to_unit` saved them."""
    steps = []
    for position, entry in enumerate(unit.values["steps"]):
        # JSON has no tuples
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["values"].items()}
        prefix = f"{position}/"
        values |= {k.removeprefix(prefix): v for k, v in unit.arrays.items() if k.startswith(prefix)}
        steps.append(TableStep(entry["kind"], values))
    return decode_steps(steps)
