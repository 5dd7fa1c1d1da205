"""One section of the report a model: its measures, confusion and hospitals in tables, its curves in figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.config.study import StudyModel, StudySite
from common.errors import MetricError
from common.evaluation import ScoreSums
from common.evaluation.metrics import confusion
from server.courses import FEDERATED, LOCAL, POOLED
from server.record import StudyResults
from server.report_overview import Cell, cell, course_label
from server.report_panels import Panel, learning_panels, panels
from server.scoring import CaseSet, Score, Undefined, case_sets, groups_of_cases, measures, score


@dataclass(frozen=True)
class Matrix:
    """Counts of cases by what they are (row) and what the model says (column)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class SiteRow:
    """One hospital's test cases: how many, and the headline measure of the courses that matter to it."""

    site: str
    role: str
    n_cases: int
    groups: str
    federated: Cell
    own: Cell
    pooled: Cell


@dataclass(frozen=True)
class ModelSection:
    """All that the report shows of one model."""

    name: str
    about: str
    panels: tuple[Panel, ...]
    learning: tuple[Panel, ...]
    measure_columns: tuple[str, ...]
    measure_rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    matrices: tuple[Matrix, ...]
    sites: tuple[SiteRow, ...]
    has_own: bool
    has_pooled: bool


def model_sections(results: StudyResults) -> tuple[ModelSection, ...]:
    """A section for each model of the study, in the study's order."""
    return tuple(_section(results, entry) for entry in results.study.models)


def _section(results: StudyResults, entry: StudyModel) -> ModelSection:
    columns, rows = _measure_table(results, entry.name)
    return ModelSection(
        name=entry.name,
        about=_about(results, entry),
        panels=tuple(panels(results, entry.name)),
        learning=learning_panels(results, entry.name),
        measure_columns=columns,
        measure_rows=rows,
        matrices=tuple(_matrices(results, entry.name)),
        sites=tuple(_site_row(results, entry.name, site) for site in results.answering),
        has_own=any(course.startswith(LOCAL) for course in results.courses),
        has_pooled=POOLED in results.courses,
    )


def _about(results: StudyResults, entry: StudyModel) -> str:
    seen = [entry.model.needs_image and "the image patch", entry.model.needs_table and "the feature table"]
    sizes = {t.n_parameters for t in results.trainings if (t.course, t.model) == (FEDERATED, entry.name)}
    size = f", {max(sizes):,} parameters" if sizes else ""
    strategy = results.study.federated.strategy.kind
    inputs = " and ".join(part for part in seen if part)
    if entry.solved is not None:
        calibrated = f", calibrated ({entry.calibration})" if entry.calibration != "none" else ""
        numbers = f", {max(sizes):,} numbers" if sizes else ""
        return f"kind {entry.model.kind}, sees {inputs}{numbers}; solved from merged sums, without rounds{calibrated}"
    return f"kind {entry.model.kind}, sees {inputs}{size}; {entry.rounds} rounds of {strategy}"


def _measure_table(
    results: StudyResults, model: str
) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[Cell, ...]], ...]]:
    """Measures (rows) of the federated and the pooled course on each set of test cases (columns)."""
    heads: list[str] = []
    by_label: dict[str, list[Cell]] = {}
    for course in [name for name in results.courses if not name.startswith(LOCAL)]:
        for cases in case_sets(results.study):
            try:
                found = measures(results.study, results.merged(course, model, cases.sites))
            except MetricError:
                continue  # no hospital answered: the headline table says why
            heads.append(f"{course_label(course)}, {cases.name}")
            for measure in found:
                shown = cell(Score(course, model, cases, 0, (), measure.result))
                by_label.setdefault(measure.label, []).append(shown)
    return tuple(heads), tuple((label, tuple(cells)) for label, cells in by_label.items())


def _matrices(results: StudyResults, model: str) -> Iterator[Matrix]:
    for cases in case_sets(results.study):
        try:
            sums = results.merged(FEDERATED, model, cases.sites)
        except MetricError:
            continue  # no hospital answered: the headline table says why
        if isinstance(sums, ScoreSums):
            yield _matrix(results, cases, sums)


def _matrix(results: StudyResults, cases: CaseSet, sums: ScoreSums) -> Matrix:
    names = tuple(name for name, _ in groups_of_cases(results.study, sums))
    if len(names) > 2:
        rows = tuple((name, tuple(sums.confusion[k].tolist())) for k, name in enumerate(names))
        return Matrix(f"Most probable class, federated, {cases.name} test cases", names, rows)
    at = confusion(sums, threshold=results.study.evaluation.threshold)
    rows = (
        (names[1], (at.true_positive, at.false_negative)),
        (names[0], (at.false_positive, at.true_negative)),
    )
    heads = (f"predicted {names[1]} (≥ {at.threshold:.3g})", f"predicted {names[0]}")
    rounded = f"; each count ± {at.slack} by rounding" if at.slack else ""
    return Matrix(f"Confusion, federated, {cases.name} test cases{rounded}", heads, rows)


def _site_row(results: StudyResults, model: str, site: StudySite) -> SiteRow:
    cases = CaseSet(site.name, (site.name,))
    scores = {course: score(results, course, model, cases) for course in (FEDERATED, LOCAL + site.name, POOLED)}
    answered = max(scores.values(), key=lambda entry: entry.n_cases)
    shown = {course: cell(found) for course, found in scores.items()}
    if site.role == "external":
        shown[LOCAL + site.name] = Cell(reason="does not train")
    return SiteRow(
        site=site.name,
        role=site.role,
        n_cases=answered.n_cases,
        groups=", ".join(f"{n} {name}" for name, n in answered.groups),
        federated=_with_refusals(results, model, site.name, shown[FEDERATED], scores[FEDERATED]),
        own=shown[LOCAL + site.name],
        pooled=shown[POOLED],
    )


def _with_refusals(results: StudyResults, model: str, site: str, shown: Cell, found: Score) -> Cell:
    """The cell with the folds that the hospital did not answer, where it answered others."""
    evaluation = results.evaluations.get((FEDERATED, model, site))
    if evaluation is None or not evaluation.refused or isinstance(found.result, Undefined):
        return shown
    codes = ", ".join(sorted(set(evaluation.refused.values())))
    note = f"{len(evaluation.refused)} of {results.study.n_folds} folds refused: {codes}"
    return Cell(shown.value, shown.interval, f"{shown.note}, {note}".lstrip(", "), bar=shown.bar)
