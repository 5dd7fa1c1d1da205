"""The results of a study: load them from the folders of its runs, show them in the terminal, write them as tables.

The federated run and the pooled reference may lie in two folders (``fedrad demo``) or in one (``fedrad simulate``). A
run that was cut off is read as far as it came.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Parameters, merge_sums
from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import StateError
from common.journal import JsonLines
from server.checkpoint import CheckpointStore, Unit
from server.harmonisation import effect_of_unit
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.record import (
    UNASSIGNED,
    Arrays,
    Flow,
    HarmonisationRecord,
    SelectionRecord,
    SiteCases,
    SiteEvaluation,
    StudyResults,
    TimeLine,
    Training,
    Wait,
)
from server.result_tables import summary_table, write_tables
from server.selection import selected_of_unit
from server.training_state import TrainingState

__all__ = ["load_results", "summary_table", "write_tables"]


def load_results(folders: Sequence[Path]) -> StudyResults:
    """Results of one study from the folders of its runs.

    Parameters
    ----------
    folders : sequence of Path
        The first is the study's own run: cases, messages and times are taken from it. Further ones add courses.

    Raises
    ------
    StateError
        If a folder holds no run, a damaged one, or one of another study; if two folders hold the same course.
    """
    runs = [_read_run(folder) for folder in folders]
    if not runs:
        raise StateError("results of no folder")
    results = runs[0]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        if run.study_digest != results.study_digest:
            raise StateError(f"{folder} holds study {run.study_digest[:12]}, expected {results.study_digest[:12]}")
        twice = sorted(set(run.courses) & set(results.courses))
        if twice:
            raise StateError(f"{folder} holds the course {', '.join(twice)}, which another folder holds too")
        results = replace(
            results,
            evaluations={**results.evaluations, **run.evaluations},
            trainings=(*results.trainings, *run.trainings),
            harmonisations=(*results.harmonisations, *run.harmonisations),
            selections=(*results.selections, *run.selections),
        )
    return results


def _read_run(folder: Path) -> StudyResults:
    """Read one run's folder.

    Raises
    ------
    StateError
        If the folder holds no run, or a checkpoint is damaged or of another study.
    """
    if not (folder / STUDY_FILE).exists():
        raise StateError(f"{folder} holds no {STUDY_FILE}: not the folder of a study run")
    study = load(folder / STUDY_FILE, StudyConfig)
    store = CheckpointStore(folder / "checkpoints", digest(study))
    lines = list(JsonLines(folder / JOURNAL_FILE).read())
    preparation = store.load("preparation")
    unassigned = store.load(UNASSIGNED)
    return StudyResults(
        study=study,
        study_digest=digest(study),
        study_text=(folder / STUDY_FILE).read_text(encoding="utf-8"),
        versions=preparation.values["versions"] if preparation else {},
        cases=tuple(_cases(study, preparation, unassigned)),
        evaluations=_evaluations(store),
        trainings=_trainings(study, store),
        flows=_flows(lines),
        waits=_waits(lines),
        time_line=_time_line(lines),
        simulated=unassigned is not None,
        harmonisations=tuple(_harmonisations(store)),
        selections=tuple(_selections(store)),
    )


def _cases(study: StudyConfig, preparation: Unit | None, unassigned: Unit | None) -> Iterator[SiteCases]:
    counts = preparation.values["sites"] if preparation else {}
    for site in sorted(study.sites, key=lambda entry: (entry.role != "training", entry.name)):
        if site.name in counts:
            yield SiteCases(site=site.name, role=site.role, **counts[site.name])
    if unassigned is not None and unassigned.values["n_listed"]:
        yield SiteCases(UNASSIGNED, "", unassigned.values["n_listed"], 0, unassigned.values["exclusions"])


def _units(store: CheckpointStore, kind: str) -> Iterator[tuple[str, str, int, Unit]]:
    """Course, model, fold and content of every unit ``kind.course.model.foldK``; units of no model have none."""
    for name in store.names():
        found, *place = name.split(".")
        if found != kind:
            continue
        course, model, fold = place if len(place) == 3 else (place[0], "", place[1])
        unit = store.load(name)
        assert unit is not None  # names() lists what exists
        yield course, model, int(fold.removeprefix("fold")), unit


def _evaluations(store: CheckpointStore) -> dict[tuple[str, str, str], SiteEvaluation]:
    parts: dict[tuple[str, str, str], list[Arrays]] = defaultdict(list)
    subgroups: dict[tuple[str, str, str], list[Arrays]] = defaultdict(list)
    n_cases: dict[tuple[str, str, str], int] = defaultdict(int)
    refused: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for course, model, fold, unit in _units(store, "evaluation"):
        for site, n in unit.values["n_cases"].items():
            prefix = f"{site}/"
            own = {key.removeprefix(prefix): array for key, array in unit.arrays.items() if key.startswith(prefix)}
            parts[course, model, site].append({key: array for key, array in own.items() if "/" not in key})
            subgroups[course, model, site].append({key: array for key, array in own.items() if "/" in key})
            n_cases[course, model, site] += n
        for site, code in unit.values["refused"].items():
            refused[course, model, site][fold] = code
    return {
        key: SiteEvaluation(
            n_cases[key],
            merge_sums(parts[key]) if parts[key] else None,
            dict(refused[key]),
            merge_sums(subgroups[key]) if subgroups[key] else {},
        )
        for key in sorted({*parts, *refused})
    }


def _trainings(study: StudyConfig, store: CheckpointStore) -> tuple[Training, ...]:
    """By model in the study's order, then by course and fold."""
    found = []
    for course, model, fold, unit in _units(store, "training"):
        state = TrainingState.from_unit(unit)
        found.append(
            Training(
                course=course,
                model=model,
                fold=fold,
                round_number=state.round_number,
                rounds=study.study_model(model).rounds,
                n_parameters=state.parameters.size,
                sha256=state.parameters.digest(),
                history=state.history,
                absent=state.absent,
            )
        )
    found += [_solved(course, model, fold, unit) for course, model, fold, unit in _units(store, "solution")]
    order = [entry.name for entry in study.models]
    return tuple(sorted(found, key=lambda training: (order.index(training.model), training.course, training.fold)))


def _solved(course: str, model: str, fold: int, unit: Unit) -> Training:
    """A solved model beside the trained ones: the digest of its numbers says whether two runs ended in the same."""
    numbers = Parameters({name: np.asarray(array, dtype=np.float64) for name, array in unit.arrays.items()})
    sha = hashlib.sha256(f"{numbers.digest()} {json.dumps(unit.values, sort_keys=True)}".encode())
    return Training(course, model, fold, 0, 0, numbers.size, sha.hexdigest(), (), ())


def _harmonisations(store: CheckpointStore) -> Iterator[HarmonisationRecord]:
    for course, _, fold, unit in _units(store, "harmonisation"):
        before, after = (effect_of_unit(unit, when) for when in ("before", "after"))
        yield HarmonisationRecord(course, fold, before, after, tuple(unit.values["notes"]))


def _selections(store: CheckpointStore) -> Iterator[SelectionRecord]:
    for course, _, fold, unit in _units(store, "selection"):
        yield SelectionRecord(course, fold, selected_of_unit(unit))


def _flows(lines: Sequence[Mapping[str, Any]]) -> tuple[Flow, ...]:
    added: dict[tuple[str, str, str, str, str], Flow] = {}
    for line in lines:
        if line["event"] != "answer":
            continue
        key = (line["site"], line["phase"], line["request"], line["reply"], line["code"])
        before = added.get(key, Flow(*key, 0, 0, 0, 0.0))
        added[key] = replace(
            before,
            n_messages=before.n_messages + 1,
            bytes_down=before.bytes_down + line["bytes_down"],
            bytes_up=before.bytes_up + line["bytes_up"],
            seconds=before.seconds + line["seconds"],
        )
    return tuple(flow for _, flow in sorted(added.items()))


def _waits(lines: Sequence[Mapping[str, Any]]) -> tuple[Wait, ...]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        if line["event"] == "awaited":
            counts[str(line["site"]), str(line["phase"])] += 1
    return tuple(Wait(site, phase, n) for (site, phase), n in sorted(counts.items()))


def _time_line(lines: Sequence[Mapping[str, Any]]) -> TimeLine | None:
    starts = [line for line in lines if line["event"] == "study"]
    if not starts:
        return None
    return TimeLine(
        began=datetime.fromisoformat(starts[0]["time"]),
        last=datetime.fromisoformat(lines[-1]["time"]),
        n_starts=len(starts),
        finished=any(line["event"] == "finished" for line in lines),
    )
