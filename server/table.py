"""The statistics phase: what the training table needs to know about all training cases, learned from merged sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.config.study import StudyConfig
from common.errors import FederationError, StatisticError
from common.messages import AskStatistic, StatisticSums, Sums, TableStep
from common.statistics import encode_query
from common.statistics.moments import Imputer, Scaler, moments
from common.statistics.procedure import Query, run
from common.statistics.quantiles import median_imputer
from common.statistics.selection_filters import uncorrelated
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
    the same as scikit-learn's ``SimpleImputer`` and ``StandardScaler`` on the pooled training rows (a median is exact
    up to the small-cell rule, see `common.statistics.quantiles`).

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
    if study.table.impute == "median":
        steps.append(run(median_imputer(kept), ask))
    else:
        steps.append(Imputer.mean(run(moments(kept), ask)))
    if study.table.maximum_correlation is not None:
        kept = run(uncorrelated(kept, largest=study.table.maximum_correlation), ask)
        steps.append(Keep(kept))
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
    return agreeing({site: reply.sums for site, reply in replies.items()})


def agreeing(sums: Mapping[str, Sums]) -> list[Sums]:
    """The sums of all sites, in order.

    Raises
    ------
    FederationError
        Where they cannot be added up: names the sites that differ from the first.
    """
    layouts = {site: {k: (v.shape, v.dtype.str) for k, v in answer.items()} for site, answer in sums.items()}
    first, *others = layouts
    odd = [site for site in others if layouts[site] != layouts[first]]
    if odd:
        raise FederationError(f"statistics of {', '.join(odd)} have other fields or shapes than those of {first}")
    return list(sums.values())


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
