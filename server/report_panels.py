"""The figures of one model with their captions: ROC, calibration, training loss, follow-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from server.courses import FEDERATED, LOCAL
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
from server.result_tables import shown
from server.scoring import CaseSet, case_sets, headline_label, score
from server.training_state import SiteRound

LEAST_IN_GROUP = 13
"""Cases a group of a calibration curve: with fewer, Wilson's interval spans half of the axis."""

Curve = TypeVar("Curve")


@dataclass(frozen=True)
class Panel:
    """A figure with its caption."""

    svg: Markup
    caption: str


def panels(results: StudyResults, model: str) -> Iterator[Panel]:
    """ROC, then calibration, on each set of test cases; a class against the rest where there are more than two."""
    sets = {cases: _sums_by_course(results, model, cases) for cases in case_sets(results.study)}
    sums = next((found for by_course in sets.values() for found in by_course.values()), None)
    if isinstance(sums, ScoreSums):
        for index in range(len(sums.positives)):
            places = [_Place(results, model, cases, index) for cases in sets]
            yield from (panel for place in places for panel in _roc(place, sets[place.cases]))
            yield from (panel for place in places for panel in _calibration(place, sets[place.cases]))
    elif isinstance(sums, RiskSums):
        for cases, by_course in sets.items():
            yield from (_follow_up(model, cases, s) for s in list(by_course.values())[:1] if isinstance(s, RiskSums))


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
        caption = "Training loss, trained together (thin: each hospital)"
        found.append(Panel(loss_figure(together, limits=limits, key=f"{model}-loss", alt=alt), caption))
    if alone:
        alt = f"Training loss of {model} by round, each hospital on its own{_ends(alone)}."
        caption = "Training loss, each hospital on its own"
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


@dataclass(frozen=True)
class _Place:
    """Which curve of which model on which test cases."""

    results: StudyResults
    model: str
    cases: CaseSet
    index: int

    @property
    def key(self) -> str:
        return f"{self.model}-{self.cases.name}-{self.index}"

    @property
    def words(self) -> str:
        classes = getattr(self.results.study.outcome, "names", ())
        of_class = f", “{classes[self.index]}” against the rest" if len(classes) > 2 else ""
        return f"{self.cases.name} test cases{of_class}"


def _roc(place: _Place, sums: Mapping[str, AnySums]) -> Iterator[Panel]:
    curves = _curves(place, {c: partial(roc_curve, s) for c, s in sums.items() if isinstance(s, ScoreSums)})
    if curves:
        values = "; ".join(_value_of(place, course) for course in curves)
        alt = f"ROC curves of {place.model}, {place.words}. {headline_label(place.results.study)}: {values}."
        yield Panel(roc_figure(curves, key=f"{place.key}-roc", alt=alt), f"ROC, {place.words}")


def _calibration(place: _Place, sums: Mapping[str, AnySums]) -> Iterator[Panel]:
    shown = {c: s for c, s in sums.items() if not c.startswith(LOCAL) and isinstance(s, ScoreSums)}
    confidence = place.results.study.evaluation.confidence
    computed = {
        course: partial(calibration_curve, found, confidence=confidence, n_groups=n_groups(found))
        for course, found in shown.items()
    }
    curves = _curves(place, computed)
    if curves:
        course, (curve, _) = next(iter(curves.items()))
        points = ", ".join(f"{p:.2f}: {o:.2f}" for p, o in zip(curve.predicted, curve.observed, strict=True))
        alt = (
            f"Calibration of {place.model}, {place.words}, {course_label(course)}. Predicted probability and observed "
            f"share by group: {points}."
        )
        bars = f"bars: {100 * confidence:g} % Wilson intervals, {course_label(course)}"
        yield Panel(calibration_figure(curves, key=f"{place.key}-cal", alt=alt), f"Calibration, {place.words}; {bars}")


def n_groups(sums: ScoreSums) -> int:
    """Groups of a calibration curve: at most ten, of cases enough to say something, rounding considered."""
    return max(2, min(10, sums.n_cases // (LEAST_IN_GROUP + 5 * int(sums.slack[0]))))


def _curves(place: _Place, computed: Mapping[str, Callable[..., Curve]]) -> dict[str, tuple[Curve, LineStyle]]:
    """Curves with their styles, federated first; a course whose curve is undefined is left out (the tables say why)."""
    training = place.results.study.training_sites
    found = {}
    for course, compute in computed.items():
        try:
            found[course] = (compute(curve=place.index), course_style(course, training))
        except MetricError:
            continue
    return found


def _value_of(place: _Place, course: str) -> str:
    return f"{course_label(course)} {shown(score(place.results, course, place.model, place.cases).result)}"


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
        if course == FEDERATED and results.study.privacy.site_level is not None:
            continue  # losses stay at the hospitals
        if history:
            yield _loss_line(history, course_style(course, training), thin=False)
        if course == FEDERATED:
            for site in sorted({entry.site for entry in history} & set(training)):
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
