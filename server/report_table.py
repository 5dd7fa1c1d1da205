"""The report's section on the training table: harmonisation and its effect, selected features, subgroups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from common.errors import MetricError
from common.evaluation import ScoreSums
from common.evaluation.fairness import SubgroupRow, subgroup_table
from common.statistics.batch_effect import BatchEffect
from common.statistics.batch_effect_plot import draw_batch_effect
from server.courses import FEDERATED
from server.figures import INK, inline_svg, plain_axes
from server.record import HarmonisationRecord, StudyResults
from server.result_tables import shown
from server.scoring import CaseSet, case_sets

MOST_FEATURES = 60
"""Rows of the table of selected features; the JSON beside the report has all."""


@dataclass(frozen=True)
class HarmonisationPart:
    """One fold's harmonisation of the federated course: what changed, in words and as a picture."""

    fold: int
    before: str
    after: str
    notes: tuple[str, ...]
    svg: Markup | None


@dataclass(frozen=True)
class SelectionStep:
    """One selection step over the folds: how many features it saw and kept, as a range."""

    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class FeatureRow:
    """A feature that was selected in some fold: in how many, and the step's number (mean over these folds)."""

    name: str
    n_folds: int
    value: str


@dataclass(frozen=True)
class SubgroupSection:
    """One attribute of one model on one set of test cases."""

    title: str
    rows: tuple[tuple[str, int, int, str, str, str], ...]


@dataclass(frozen=True)
class TableSection:
    """All that the report says of the training table of the federated course."""

    n_folds: int
    harmonisation: tuple[HarmonisationPart, ...]
    steps: tuple[SelectionStep, ...]
    score: str
    features: tuple[FeatureRow, ...]
    n_selected: int
    subgroups: tuple[SubgroupSection, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.harmonisation or self.steps or self.subgroups)


def table_section(results: StudyResults) -> TableSection:
    """Harmonisation and selection of the federated course, and the subgroups of its models."""
    records = [record for record in results.harmonisations if record.course == FEDERATED]
    steps, score, features = _selection(results)
    return TableSection(
        n_folds=results.study.n_folds,
        harmonisation=tuple(_harmonisation(record) for record in records),
        steps=steps,
        score=score,
        features=features[:MOST_FEATURES],
        n_selected=len(features),
        subgroups=tuple(_subgroups(results)),
    )


def _harmonisation(record: HarmonisationRecord) -> HarmonisationPart:
    before, after = record.before, record.after
    svg = None
    if before is not None and after is not None and record.fold == 0:
        svg = _picture(before, after)
    return HarmonisationPart(
        record.fold,
        before.sentence() if before else "",
        after.sentence() if after else "",
        record.notes,
        svg,
    )


def _picture(before: BatchEffect, after: BatchEffect) -> Markup:
    figure = draw_batch_effect(before, after)
    for axes in figure.axes:
        plain_axes(axes)
        for text in (*axes.texts, *(axes.legend_.get_texts() if axes.legend_ else ())):
            text.set_color(INK)
    alt = f"Effect of batches. Before: {before.sentence()}. After: {after.sentence()}."
    return inline_svg(figure, key="batch-effect", alt=alt)


def _selection(results: StudyResults) -> tuple[tuple[SelectionStep, ...], str, tuple[FeatureRow, ...]]:
    """The steps, what the last one's numbers are, and the features that it kept, most folds first."""
    records = [record.steps for record in results.selections if record.course == FEDERATED]
    if not records:
        return (), "", ()
    steps = tuple(
        SelectionStep(of_step[0].kind, _range([s.n_before for s in of_step]), _range([len(s.names) for s in of_step]))
        for of_step in zip(*records, strict=True)
    )
    counts: dict[str, int] = {}
    numbers: dict[str, list[float]] = {}
    for last in (steps_of_fold[-1] for steps_of_fold in records):
        for name in last.names:
            counts[name] = counts.get(name, 0) + 1
            numbers.setdefault(name, []).extend([last.values[name]] if name in last.values else [])
    order = sorted(counts, key=lambda name: (-counts[name], -_mean(numbers[name]), name))
    rows = tuple(FeatureRow(n, counts[n], f"{_mean(numbers[n]):.3g}" if numbers[n] else "") for n in order)
    return steps, records[0][-1].score, rows


def _subgroups(results: StudyResults) -> Iterator[SubgroupSection]:
    evaluation = results.study.evaluation
    for entry in results.study.models:
        for cases in case_sets(results.study):
            for attribute, levels in _levels(results, entry.name, cases).items():
                rows = subgroup_table(levels, threshold=evaluation.threshold, confidence=evaluation.confidence)
                if rows:
                    title = f"{entry.name}, federated, {cases.name} test cases by {attribute}"
                    yield SubgroupSection(title, tuple(map(_row, rows)))


def _levels(results: StudyResults, model: str, cases: CaseSet) -> Mapping[str, Mapping[str, ScoreSums]]:
    try:
        return results.subgroups(FEDERATED, model, cases.sites)
    except MetricError:
        return {}


def _row(row: SubgroupRow) -> tuple[str, int, int, str, str, str]:
    cells = [shown(row.measures[name]) if name in row.measures else "—" for name in ("auc", "balanced_accuracy")]
    against = shown(row.against_rest) if row.against_rest is not None else "—"
    return row.level, row.n_cases, row.n_positive, cells[0], cells[1], against


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
