"""Results as tables: one for the terminal, ``results.csv`` with every measure, ``results.json`` with all else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from server.checkpoint import write_atomic
from server.courses import FEDERATED, LOCAL, POOLED
from server.privacy_costs import training_costs
from server.record import StudyResults
from server.scoring import CaseSet, Result, Score, Undefined, case_sets, headline_label, measures, score

CSV_COLUMNS = (
    "model", "course", "cases", "site", "n_cases", "groups",
    "measure", "value", "low", "high", "bound", "rounding", "method", "undefined",
)  # fmt: skip


def shown(result: Result, *, digits: int = 3) -> str:
    """A result as a reader sees it: value and interval, or why there is none."""
    if isinstance(result, Undefined):
        return f"— ({result.reason})"
    return f"{result.value:.{digits}f} ({result.low:.{digits}f} to {result.high:.{digits}f})"


def summary_table(results: StudyResults) -> Table:
    """Local-only, federated and pooled of each model side by side, with intervals, on internal and external cases."""
    study = results.study
    percent = f"{100 * study.evaluation.confidence:g}"
    table = Table(
        title=f"{escape(study.title)}: {headline_label(study)} with {percent} % interval",
        caption=_caption(results),
        show_lines=True,
    )
    table.add_column("model")
    table.add_column("test cases")
    columns = [(LOCAL, "local-only"), (FEDERATED, "federated"), (POOLED, "pooled")]
    columns = [(key, name) for key, name in columns if any(course.startswith(key) for course in results.courses)]
    for key, name in columns:
        table.add_column(name, style="bold" if key == FEDERATED else None)
    for entry in study.models:
        for cases in case_sets(study):
            cells = [_cell(results, key, entry.name, cases) for key, _ in columns]
            table.add_row(entry.name, *map(escape, (_cases(results, entry.name, cases), *cells)))
    return table


def _cell(results: StudyResults, key: str, model: str, cases: CaseSet) -> str:
    courses = [course for course in results.courses if course.startswith(key)]
    scores = {course: score(results, course, model, cases) for course in courses}
    if key != LOCAL:
        return shown(scores[key].result) if scores else ""
    width = max(len(course) - len(LOCAL) for course in courses)
    return "\n".join(f"{c.removeprefix(LOCAL):<{width}} {shown(s.result)}" for c, s in scores.items())


def _cases(results: StudyResults, model: str, cases: CaseSet) -> str:
    found = [score(results, course, model, cases) for course in results.courses]
    largest = max(found, key=lambda entry: entry.n_cases, default=None)
    n = largest.n_cases if largest else 0
    counted = "" if largest is None else "\n" + ", ".join(f"{size} {name}" for name, size in largest.groups)
    return f"{cases.name}: {n} at {', '.join(cases.sites)}{counted}"


def _caption(results: StudyResults) -> str | None:
    warnings = event_warnings(results)
    return escape("\n".join(warnings)) if warnings else None


def event_warnings(results: StudyResults) -> tuple[str, ...]:
    """One sentence for each set of test cases whose smallest group lies below the study's ``warn_below_events``."""
    limit = results.study.evaluation.warn_below_events
    sentences = []
    for cases in case_sets(results.study):
        scores = _all_scores(results, cases)
        if not scores:
            continue
        largest = max(scores, key=lambda entry: entry.n_cases)
        if largest.n_cases and largest.fewest < limit:
            groups = " and ".join(f"{n} with “{name}”" for name, n in largest.groups)
            counted = f" ({groups}), fewer than {limit} in the smallest group" if groups else f", fewer than {limit}"
            sentences.append(
                f"{largest.n_cases} {cases.name} test cases{counted}: "
                "this proves that the pipeline runs, not that a model works."
            )
    return tuple(sentences)


def _all_scores(results: StudyResults, cases: CaseSet) -> list[Score]:
    return [score(results, course, m.name, cases) for course in results.courses for m in results.study.models]


def write_tables(results: StudyResults, folder: Path) -> None:
    """Write ``results.csv`` (one row a measure, of every course, model and set of cases) and ``results.json``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    rows = list(_rows(results))
    writer.writerows(rows)
    write_atomic(folder / "results.csv", text.getvalue().encode())
    content = json.dumps(_content(results, rows), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / "results.json", content.encode())


def _rows(results: StudyResults) -> Iterator[dict[str, Any]]:
    study = results.study
    sites = [CaseSet(site.name, (site.name,)) for site in sorted(results.answering, key=lambda entry: entry.name)]
    for entry in study.models:
        for course in results.courses:
            for cases in (*case_sets(study), *sites):
                found = score(results, course, entry.name, cases)
                start = {
                    "model": entry.name,
                    "course": course,
                    "cases": "site" if cases in sites else cases.name,
                    "site": cases.name if cases in sites else "",
                    "n_cases": found.n_cases,
                    "groups": "; ".join(f"{name}: {n}" for name, n in found.groups),
                }
                if isinstance(found.result, Undefined):
                    yield {**start, "measure": "headline", "undefined": found.result.reason}
                    continue
                for measure in measures(study, results.merged(course, entry.name, cases.sites)):
                    yield {**start, "measure": measure.name, **_numbers(measure.result)}


def _numbers(result: Result) -> dict[str, Any]:
    if isinstance(result, Undefined):
        return {"undefined": result.reason}
    return asdict(result)


def _content(results: StudyResults, rows: list[dict[str, Any]]) -> dict[str, Any]:
    line = results.time_line
    return {
        "study": results.study.name,
        "title": results.study.title,
        "study_digest": results.study_digest,
        "seed": results.study.seed,
        "versions": dict(results.versions),
        "began": line.began.isoformat() if line else None,
        "ended": line.last.isoformat() if line else None,
        "finished": bool(line and line.finished),
        "warnings": list(event_warnings(results)),
        "cases": [{**asdict(site), "adds_up": site.adds_up} for site in results.cases],
        "measures": rows,
        "trainings": [asdict(training) for training in results.trainings],
        "privacy": [cost.to_json() for cost in training_costs(results)],
        "flows": [asdict(flow) for flow in results.flows],
        "waits": [asdict(wait) for wait in results.waits],
    }
