"""The figures of one model with their captions: ROC, calibration, training loss, follow-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from markupsafe import Markup

from common.errors import MetricError
from common.evaluation import RiskSums, ScoreSums
from common.evaluation.metrics import roc_curve
from common.evaluation.reliability import calibration_curve
from common.evaluation.survival import TIME_EDGES_DAYS, kaplan_meier
from server.courses import FEDERATED, LOCAL, POOLED
from server.figures import (
    LineStyle,
    LossLine,
    calibration_figure,
    course_style,
    event_free_figure,
    loss_figure,
    roc_figure,
    site_style,
)
from server.record import AnySums, StudyResults
from server.report_overview import course_label
from server.scoring import CaseSet, case_sets, score
from server.training import SiteRound

Curve = TypeVar("Curve")


@dataclass(frozen=True)
class Panel:
    """A figure with its caption."""

    svg: Markup
    caption: str


def panels(results: StudyResults, model: str) -> Iterator[Panel]:
    """ROC and calibration on each set of test cases, a class against the rest where there are more than two."""
    for cases in case_sets(results.study):
        sums = _sums_by_course(results, model, cases)
        first = next(iter(sums.values()), None)
        if isinstance(first, ScoreSums):
            scored = {course: found for course, found in sums.items() if isinstance(found, ScoreSums)}
            for index in range(len(first.positives)):
                yield from _class_panels(results, model, cases, scored, index)
        elif isinstance(first, RiskSums):
            yield _follow_up(model, cases, first)


def learning_panels(results: StudyResults, model: str) -> tuple[Panel, ...]:
    """Training loss by round: of all hospitals together, and of each on its own."""
    together = list(_loss_lines(results, model, [c for c in results.courses if not c.startswith(LOCAL)]))
    alone = list(_loss_lines(results, model, [c for c in results.courses if c.startswith(LOCAL)]))
    losses = [loss for line in (*together, *alone) for loss in line.losses]
    if not losses:
        return ()
    limits = (min(losses), max(losses))
    found = []
    if together:
        alt = f"Training loss of {model} by round, federated{_ends(together[:1])}, with a thin line for each hospital."
        caption = "Training loss, federated: weighted by cases (thick) and of each hospital (thin)"
        found.append(Panel(loss_figure(together, limits=limits, key=f"{model}-loss", alt=alt), caption))
    if alone:
        alt = f"Training loss of {model} by round, each hospital on its own{_ends(alone)}."
        caption = "Training loss, local-only: each hospital on its own"
        found.append(Panel(loss_figure(alone, limits=limits, key=f"{model}-loss-local", alt=alt), caption))
    return tuple(found)


def _sums_by_course(results: StudyResults, model: str, cases: CaseSet) -> dict[str, AnySums]:
    found: dict[str, AnySums] = {}
    for course in results.courses:
        try:
            found[course] = results.merged(course, model, cases.sites)
        except MetricError:
            continue  # no hospital answered; the tables say why
    return found


def _class_panels(
    results: StudyResults, model: str, cases: CaseSet, sums: dict[str, ScoreSums], index: int
) -> Iterator[Panel]:
    training = results.study.training_sites
    confidence = results.study.evaluation.confidence
    names = [name for name, _ in score(results, next(iter(sums)), model, cases).groups]
    of_class = "" if len(names) == 2 else f", “{names[index]}” against the rest"
    where = f"{cases.name} test cases{of_class}"
    key = f"{model}-{cases.name}-{index}"
    curves = _curves({c: partial(roc_curve, found, curve=index) for c, found in sums.items()}, training)
    if curves:
        values = "; ".join(_value_of(results, course, model, cases) for course in curves) if len(names) == 2 else ""
        alt = f"ROC curves of {model}, {where}. {values}"
        yield Panel(roc_figure(curves, key=f"{key}-roc", alt=alt), f"ROC, {where}")
    shown = {c: found for c, found in sums.items() if c in (FEDERATED, POOLED)} or sums
    calibrated = _curves(
        {c: partial(calibration_curve, found, curve=index, confidence=confidence) for c, found in shown.items()},
        training,
    )
    if calibrated:
        course, (curve, _) = next(iter(calibrated.items()))
        points = ", ".join(f"{p:.2f}: {o:.2f}" for p, o in zip(curve.predicted, curve.observed, strict=True))
        alt = f"Calibration of {model}, {where}, {course_label(course)}. Predicted: observed share. {points}."
        caption = f"Calibration, {where}; bars: {confidence:.0%} Wilson intervals of {course_label(course)}"
        yield Panel(calibration_figure(calibrated, key=f"{key}-cal", alt=alt), caption.replace("%", " %"))


def _curves(
    computed: dict[str, Callable[[], Curve]], training_sites: Sequence[str]
) -> dict[str, tuple[Curve, LineStyle]]:
    """Curves with their styles, federated first; a course whose curve is undefined is left out (the tables say why)."""
    found = {}
    for course, compute in computed.items():
        try:
            found[course] = (compute(), course_style(course, training_sites))
        except MetricError:
            continue
    return found


def _value_of(results: StudyResults, course: str, model: str, cases: CaseSet) -> str:
    result = score(results, course, model, cases).result
    return f"{course_label(course)} {getattr(result, 'value', float('nan')):.3f}"


def _follow_up(model: str, cases: CaseSet, sums: RiskSums) -> Panel:
    free = kaplan_meier(sums)
    followed = (sums.events + sums.censored).sum(axis=0)
    last = float(TIME_EDGES_DAYS[min(int(np.flatnonzero(followed).max()) + 1, len(TIME_EDGES_DAYS) - 1)])
    alt = f"Share of the {cases.name} test cases free of the event, falling to {free[-1]:.2f} after {last:.0f} days."
    svg = event_free_figure(free.tolist(), last_day=last, key=f"{model}-{cases.name}-km", alt=alt)
    return Panel(svg, f"Follow-up of the {cases.name} test cases (Kaplan-Meier)")


def _loss_lines(results: StudyResults, model: str, courses: Sequence[str]) -> Iterator[LossLine]:
    training = results.study.training_sites
    for course in courses:
        history = [
            entry
            for found in results.trainings
            if (found.course, found.model) == (course, model)
            for entry in found.history
        ]
        if history:
            yield _loss_line(history, course_style(course, training), thin=False)
        if course == FEDERATED:
            for site in sorted({entry.site for entry in history}):
                own = [entry for entry in history if entry.site == site]
                yield _loss_line(own, site_style(site, training), thin=True)


def _loss_line(history: Sequence[SiteRound], style: LineStyle, *, thin: bool) -> LossLine:
    """Mean over cases, and over folds, of the loss in each round."""
    rounds = tuple(sorted({entry.round_number for entry in history}))
    losses = []
    for number in rounds:
        found = [entry for entry in history if entry.round_number == number]
        losses.append(sum(e.n_cases * e.train_loss for e in found) / sum(e.n_cases for e in found))
    return LossLine(rounds, tuple(losses), style, thin)


def _ends(lines: Sequence[LossLine]) -> str:
    return ", " + "; ".join(f"from {line.losses[0]:.3f} to {line.losses[-1]:.3f}" for line in lines) if lines else ""
