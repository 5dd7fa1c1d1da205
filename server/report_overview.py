"""The first page of the report: what came out, in one table and one sentence a model, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.config.study import FoldsConfig, LeaveOneSiteOutConfig, ScalarOutcomeConfig, StudyConfig
from common.evaluation.uncertainty import Estimate
from server.courses import FEDERATED, LOCAL, POOLED
from server.figures import course_style
from server.record import StudyResults
from server.report_privacy import privacy_warnings
from server.result_tables import event_warnings
from server.scoring import CaseSet, Score, Undefined, case_sets, headline_label, score

NOTABLE_BOUND = 0.0005
"""From here on what binning and rounding can move is printed beside a value."""

CHANCE = 0.5


@dataclass(frozen=True)
class Bar:
    """An interval as a bar: where it begins, how long it is and where its value lies, in percent of the scale."""

    left: float
    width: float
    point: float


@dataclass(frozen=True)
class Scale:
    """The common axis of all bars of a table; ``chance`` in percent where the measure has such a value."""

    low: float
    high: float
    chance: float | None

    def bar(self, estimate: Estimate) -> Bar:
        low, value, high = (self._percent(at) for at in (estimate.low, estimate.value, estimate.high))
        return Bar(low, high - low, value)

    def _percent(self, at: float) -> float:
        return round(100 * min(max((at - self.low) / (self.high - self.low), 0.0), 1.0), 2)


@dataclass(frozen=True)
class Cell:
    """A result as the report prints it: value and interval, or ``reason``; ``note`` holds what else must be known."""

    value: str = ""
    interval: str = ""
    note: str = ""
    reason: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Row:
    """One course: its name, the CSS variable of its colour, and one cell a set of test cases."""

    label: str
    variable: str
    cells: tuple[Cell, ...]
    main: bool = False


@dataclass(frozen=True)
class ModelRows:
    """All courses of one model; ``sentence`` says the same in words, ``span`` is the range of the local-only ones."""

    model: str
    rows: tuple[Row, ...]
    span: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Column:
    """A set of test cases at the head of the table."""

    title: str
    sites: str
    counts: str


def course_label(course: str) -> str:
    """A course's name for readers."""
    if course.startswith(LOCAL):
        return f"local-only: {course.removeprefix(LOCAL)}"
    return {FEDERATED: "federated", POOLED: "pooled reference"}[course]


def decimal(value: float) -> str:
    """Three decimals, with a true minus sign."""
    return f"{value:.3f}".replace("-", "\u2212")


def columns(results: StudyResults) -> tuple[Column, ...]:
    """The sets of test cases with the largest number that any course was tested on."""
    return tuple(_column(results, cases) for cases in case_sets(results.study))


def headline_rows(results: StudyResults) -> tuple[ModelRows, ...]:
    """The headline table."""
    scale = headline_scale(results)
    return tuple(_model_rows(results, entry.name, scale) for entry in results.study.models)


def headline_scale(results: StudyResults) -> Scale:
    """An axis that holds every interval of the headline table."""
    study = results.study
    sets = case_sets(study)
    all_scores = [score(results, c, m.name, s) for c in results.courses for m in study.models for s in sets]
    found = [entry.result for entry in all_scores if isinstance(entry.result, Estimate)]
    if isinstance(study.outcome, ScalarOutcomeConfig):
        return Scale(0.0, max([result.high for result in found], default=1.0) or 1.0, None)
    low = min([0.4, *(math.floor(10 * result.low) / 10 for result in found)])
    return Scale(low, 1.0, round(100 * (CHANCE - low) / (1.0 - low), 2))


def cell(found: Score, *, scale: Scale | None = None, n_expected: int | None = None) -> Cell:
    """A score for a table.

    Parameters
    ----------
    scale : Scale, optional
        Gives the cell a bar; what rounding can move is then left to `warnings`.
    n_expected : int, optional
        The number of cases that the column promises; another one is noted.
    """
    if isinstance(found.result, Undefined):
        return Cell(reason=found.result.reason)
    notes = []
    if n_expected is not None and found.n_cases != n_expected:
        notes.append(f"{found.n_cases} cases")
    moved = found.result.bound + found.result.rounding
    if scale is None and moved >= NOTABLE_BOUND:
        notes.append(f"± {moved:.3f} by counting in bins and groups")
    return Cell(
        value=decimal(found.result.value),
        interval=f"{decimal(found.result.low)} to {decimal(found.result.high)}",
        note=", ".join(notes),
        bar=scale.bar(found.result) if scale else None,
    )


def warnings(results: StudyResults) -> tuple[str, ...]:
    """What a reader must know before any number: unfinished runs, few events, hospitals without an answer."""
    sentences = list(_unfinished(results))
    sentences += event_warnings(results)
    sentences += _binning(results)
    sentences += privacy_warnings(results)
    for entry in results.study.models:
        for course in results.courses:
            lacking = results.sites_without_answer(course, entry.name)
            if lacking and any(key[:2] == (course, entry.name) for key in results.evaluations):
                sentences.append(
                    f"{entry.name}, {course_label(course)}: no or no complete evaluation from {', '.join(lacking)}; "
                    "its measures rest on the other test cases."
                )
    for site in results.cases:
        if not site.adds_up:
            sentences.append(f"{site.site}: the counts of cases do not add up; the report cannot be trusted there.")
    return tuple(sentences)


def reading_notes(study: StudyConfig) -> tuple[str, ...]:
    """How the headline table is to be read, as far as this study needs it."""
    notes = [
        "Every value is one measure over all named test cases together, never a mean of the hospitals' values.",
        "All courses use the same models, settings, numbers of rounds and test cases; they differ in the training "
        "cases alone. So differences between courses are surer than two intervals side by side suggest, but a test of "
        "a difference would need scores of single cases, which do not leave the hospitals.",
    ]
    if isinstance(study.split, FoldsConfig):
        notes.append(
            f"Cross-validation: every internal case is tested once, by that one of {study.split.count} trained models "
            "that has not seen it. Scores of the folds are pooled, as if one model had given them."
        )
    if isinstance(study.split, LeaveOneSiteOutConfig):
        notes.append(
            "Leave one site out: every internal case is tested once, by the model that was trained without its "
            "hospital; a hospital's row is the test of that model. Scores of all hospitals are pooled."
        )
    if study.privacy.secure_aggregation is not None:
        notes.append(
            "Secure aggregation: updates, statistics and evaluations left the hospitals under masks that cancel in "
            "their sum. No hospital's own loss, number of training or test cases, or score was known to the "
            "coordinator, so none is shown; “all-sites” are the hospitals that train, together."
        )
    notes.append(
        "Hospitals send counts in agreed bins, rounded where their small-cell rule asks for it. “± by binning” says "
        "how far a value can lie from that of the single scores, in the worst case; intervals do not contain this."
    )
    return tuple(notes)


def _column(results: StudyResults, cases: CaseSet) -> Column:
    scores = [score(results, course, entry.name, cases) for course in results.courses for entry in results.study.models]
    largest = max(scores, key=lambda entry: entry.n_cases, default=None)
    counted = f"{largest.n_cases if largest else 0} cases"
    if largest is not None and largest.groups:
        counted += " (" + ", ".join(f"{n} {name}" for name, n in largest.groups) + ")"
    return Column(f"{cases.name} test cases", ", ".join(cases.sites), counted)


def _model_rows(results: StudyResults, model: str, scale: Scale) -> ModelRows:
    sets = case_sets(results.study)
    scores = {course: [score(results, course, model, cases) for cases in sets] for course in results.courses}
    most = [max((found[i].n_cases for found in scores.values()), default=0) for i in range(len(sets))]
    rows = tuple(
        Row(
            label=course_label(course),
            variable=course_style(course, results.study.training_sites).variable,
            cells=tuple(cell(entry, scale=scale, n_expected=n) for entry, n in zip(found, most, strict=True)),
            main=course == FEDERATED,
        )
        for course, found in scores.items()
    )
    local = [found for course, found in scores.items() if course.startswith(LOCAL)]
    span = tuple(_span([found[i] for found in local]) for i in range(len(sets))) if len(local) > 1 else ()
    return ModelRows(model, rows, span, _sentence(results, model, scores))


def _span(scores: Sequence[Score]) -> str:
    values = [entry.result.value for entry in scores if isinstance(entry.result, Estimate)]
    return f"{min(values):.3f} to {max(values):.3f}" if values else "—"


def _sentence(results: StudyResults, model: str, scores: dict[str, list[Score]]) -> str:
    label = headline_label(results.study)
    together = scores[FEDERATED][0] if FEDERATED in scores else None
    if together is None or isinstance(together.result, Undefined):
        reason = together.result.reason if together and isinstance(together.result, Undefined) else "not trained yet"
        return f"no {label} of the federated model ({reason})."
    found = together.result
    text = f"trained together, {label} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    text += f" on {together.n_cases} internal test cases"
    local = [row[0].result for course, row in scores.items() if course.startswith(LOCAL)]
    values = [result.value for result in local if isinstance(result, Estimate)]
    if values:
        alone = f"{min(values):.3f}" if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}"
        text += f"; each hospital alone, {alone}"
    pooled = scores[POOLED][0].result if POOLED in scores else None
    if isinstance(pooled, Estimate):
        text += f"; all cases in one place, {pooled.value:.3f}"
    return f"{text}. {_verdict(results.study, found, values)}".strip()


def _verdict(study: StudyConfig, found: Estimate, local: Sequence[float]) -> str:
    if isinstance(study.outcome, ScalarOutcomeConfig):
        return ""
    if found.low <= CHANCE:
        return "Chance (0.5) lies inside the interval."
    if not local:
        return ""
    best = max(local)
    if best < found.low:
        return "Every local-only value lies below the federated interval."
    if best > found.high:
        return "The best local-only value lies above the federated interval."
    return "The best local-only value lies inside the federated interval: these intervals alone do not show a gain."


def _binning(results: StudyResults) -> list[str]:
    """How far the headline values may lie from the exact ones, where a reader would see it."""
    study = results.study
    scores = [score(results, c, m.name, s) for c in results.courses for m in study.models for s in case_sets(study)]
    found = [entry.result for entry in scores if isinstance(entry.result, Estimate)]
    largest = max((result.bound + result.rounding for result in found), default=0.0)
    if largest < 10 * NOTABLE_BOUND:
        return []
    return [
        "Hospitals send counts in agreed bins, and of groups where their small-cell rule asks for it, and no scores: a "
        f"value of {headline_label(study)} may lie up to {largest:.3f} from that of the single scores in 19 of 20 "
        "studies. The intervals do not contain this."
    ]


def _unfinished(results: StudyResults) -> list[str]:
    line = results.time_line
    if line is None:
        return ["The study has not begun."]
    if line.finished:
        return []
    heard = line.last.strftime("%Y-%m-%d %H:%M UTC")
    return [f"The study has not finished; it was last heard of at {heard}. What is missing below is not known yet."]
