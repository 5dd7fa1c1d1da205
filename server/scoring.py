"""Measures of merged evaluation sums, by kind of outcome: what the tables and figures of a study show.

A measure that is undefined on the cases at hand is kept as `Undefined` with its reason, never as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from common.config.secure_aggregation import ALL_EXTERNAL, ALL_SITES
from common.config.study import ClassOutcomeConfig, ScalarOutcomeConfig, StudyConfig, SurvivalOutcomeConfig
from common.errors import MetricError
from common.evaluation import ErrorSums, RiskSums, ScoreSums, metrics, regression, reliability, survival
from common.evaluation.uncertainty import Estimate
from server.record import AnySums, StudyResults


@dataclass(frozen=True)
class Undefined:
    """Why a measure has no value."""

    reason: str


Result = Estimate | Undefined


@dataclass(frozen=True)
class Measure:
    """A measure: a name for tables, a label for readers, and what it came to."""

    name: str
    label: str
    result: Result


@dataclass(frozen=True)
class CaseSet:
    """Test cases that are scored together: all internal ones, all external ones, or one hospital's.

    Parameters
    ----------
    name : str
        "internal", "external", or the site's.
    """

    name: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """The study's headline measure of one model of one course on one set of cases.

    Parameters
    ----------
    n_cases : int
    groups : tuple of (str, int)
        Cases by class, or with and without the event; empty for a number as outcome.
    """

    course: str
    model: str
    cases: CaseSet
    n_cases: int
    groups: tuple[tuple[str, int], ...]
    result: Result

    @property
    def n_events(self) -> int | None:
        """Cases with the event, where the outcome has one."""
        return self.groups[-1][1] if len(self.groups) == 2 else None

    @property
    def fewest(self) -> int:
        """Size of the smallest group: what the width of an interval hangs on."""
        return min([n for _, n in self.groups], default=self.n_cases)


def case_sets(study: StudyConfig) -> tuple[CaseSet, ...]:
    """Internal cases (of the hospitals that train), and external ones where there is such a hospital."""
    external = tuple(sorted(site.name for site in study.sites if site.role == "external"))
    internal = CaseSet("internal", study.training_sites)
    if study.privacy.secure_aggregation is not None:
        internal = CaseSet("internal", (ALL_SITES,))
        external = (ALL_EXTERNAL,) if external else ()
    return (internal, CaseSet("external", external)) if external else (internal,)


def headline_label(study: StudyConfig) -> str:
    """Name of the measure that stands for a model."""
    match study.outcome:
        case ClassOutcomeConfig(names=names):
            return "AUC" if len(names) == 2 else "mean one-against-the-rest AUC"
        case SurvivalOutcomeConfig():
            return "C-index"
        case ScalarOutcomeConfig(unit=unit):
            return f"mean absolute error ({unit})"


def score(results: StudyResults, course: str, model: str, cases: CaseSet) -> Score:
    """The headline measure on the merged cases: one AUC over all of them, never a mean of the hospitals' AUCs."""
    try:
        sums = results.merged(course, model, cases.sites)
    except MetricError:
        return Score(course, model, cases, 0, (), Undefined(_silence(results, course, model, cases.sites)))
    groups = groups_of_cases(results.study, sums)
    empty = [name for name, n in groups if n == 0]
    if empty and isinstance(sums, ScoreSums):
        reason = f"no case with “{empty[0]}” among {sums.n_cases}"
        return Score(course, model, cases, sums.n_cases, groups, Undefined(reason))
    confidence = results.study.evaluation.confidence
    return Score(course, model, cases, sums.n_cases, groups, defined(partial(headline, sums, confidence=confidence)))


def headline(sums: AnySums, *, confidence: float) -> Estimate:
    """AUC, C-index or mean absolute error, as the kind of sums has it.

    Raises
    ------
    MetricError
        Where it is undefined on these cases.
    """
    if isinstance(sums, ScoreSums):
        return metrics.macro_auc(sums, confidence=confidence)
    if isinstance(sums, RiskSums):
        return survival.concordance(sums, confidence=confidence)
    return regression.mean_absolute_error(sums, confidence=confidence)


def groups_of_cases(study: StudyConfig, sums: AnySums) -> tuple[tuple[str, int], ...]:
    """Cases by class in the study's order (the event is the last of two), or without and with the event."""
    if isinstance(sums, ScoreSums) and isinstance(study.outcome, ClassOutcomeConfig):
        return tuple(zip(study.outcome.names, sums.confusion.sum(axis=1).tolist(), strict=True))
    if isinstance(sums, RiskSums):
        return (("censored", sums.n_cases - sums.n_events), ("event", sums.n_events))
    return ()


def measures(study: StudyConfig, sums: AnySums) -> tuple[Measure, ...]:
    """All measures of one model on one set of cases, the headline first."""
    confidence = study.evaluation.confidence
    if isinstance(sums, ScoreSums):
        return tuple(_of_classes(study, sums, confidence))
    if isinstance(sums, RiskSums):
        return tuple(_of_survival(study, sums, confidence))
    return tuple(_of_numbers(study, sums, confidence))


def defined(compute: Callable[[], Estimate]) -> Result:
    """The measure, or why there is none."""
    try:
        return compute()
    except MetricError as error:
        return Undefined(str(error))


def _of_classes(study: StudyConfig, sums: ScoreSums, confidence: float) -> Sequence[Measure]:
    two = sums.n_classes == 2
    at = metrics.confusion(sums, threshold=study.evaluation.threshold, confidence=confidence)
    brier = partial(reliability.brier, sums, confidence=confidence)
    log_loss = partial(reliability.log_loss, sums, confidence=confidence)
    found = [Measure("auc", headline_label(study), defined(partial(headline, sums, confidence=confidence)))]
    if two:
        precision = partial(metrics.average_precision, sums, confidence=confidence)
        found.append(Measure("average_precision", "Average precision", defined(precision)))
    found += [
        Measure("brier", "Brier score (lower is better)", defined(brier)),
        Measure("log_loss", "Log-loss (lower is better)", defined(log_loss)),
    ]
    if not two:
        classes = [name for name, _ in groups_of_cases(study, sums)]
        of_class = [defined(partial(metrics.auc, sums, curve=k, confidence=confidence)) for k in range(len(classes))]
        found += [
            Measure(f"auc_{name}", f"AUC of “{name}” against the rest", result)
            for name, result in zip(classes, of_class, strict=True)
        ]
        accuracy = partial(metrics.accuracy, sums, confidence=confidence)
        balanced = partial(metrics.balanced_accuracy, sums, confidence=confidence)
        return [
            *found,
            Measure("accuracy", "Accuracy of the most probable class", defined(accuracy)),
            Measure("balanced_accuracy", "Balanced accuracy", defined(balanced)),
        ]
    percent = f"at {at.threshold:.3g}"
    return [
        *found,
        *_calibration(sums, confidence),
        Measure("sensitivity", f"Sensitivity {percent}", defined(at.sensitivity)),
        Measure("specificity", f"Specificity {percent}", defined(at.specificity)),
        Measure("ppv", f"Positive predictive value {percent}", defined(at.ppv)),
        Measure("npv", f"Negative predictive value {percent}", defined(at.npv)),
        Measure("accuracy", f"Accuracy {percent}", defined(at.accuracy)),
        Measure("balanced_accuracy", f"Balanced accuracy {percent}", defined(at.balanced_accuracy)),
    ]


def _calibration(sums: ScoreSums, confidence: float) -> Sequence[Measure]:
    labels = {
        "calibration_slope": "Calibration slope (ideal: 1)",
        "calibration_intercept": "Calibration intercept (ideal: 0)",
        "calibration_in_the_large": "Calibration in the large (ideal: 0)",
    }
    try:
        line = reliability.calibration_line(sums, confidence=confidence)
    except MetricError as error:
        return [Measure(name, label, Undefined(str(error))) for name, label in labels.items()]
    ends = (line.slope, line.intercept, line.in_the_large)
    return [Measure(name, label, end) for (name, label), end in zip(labels.items(), ends, strict=True)]


def _of_numbers(study: StudyConfig, sums: ErrorSums, confidence: float) -> Sequence[Measure]:
    assert isinstance(study.outcome, ScalarOutcomeConfig)  # the kind of sums follows the kind of outcome
    unit = study.outcome.unit
    found = {
        ("mean_absolute_error", headline_label(study)): regression.mean_absolute_error,
        ("root_mean_squared_error", f"Root mean squared error ({unit})"): regression.root_mean_squared_error,
        ("bias", f"Mean of predicted less observed ({unit})"): regression.bias,
        ("r_squared", "R² (share of the variance explained)"): regression.r_squared,
    }
    return [
        Measure(name, label, defined(partial(compute, sums, confidence=confidence)))
        for (name, label), compute in found.items()
    ]


def _of_survival(study: StudyConfig, sums: RiskSums, confidence: float) -> Sequence[Measure]:
    assert isinstance(study.outcome, SurvivalOutcomeConfig)  # the kind of sums follows the kind of outcome
    found = [Measure("c_index", "C-index", defined(partial(survival.concordance, sums, confidence=confidence)))]
    for day in study.outcome.interval_ends_days:
        area = partial(survival.time_dependent_auc, sums, at_days=day, confidence=confidence)
        found.append(Measure(f"auc_day_{day:g}", f"AUC for an event by day {day:g}", defined(area)))
    return found


def _silence(results: StudyResults, course: str, model: str, sites: Sequence[str]) -> str:
    found = [results.evaluations[course, model, site] for site in sites if (course, model, site) in results.evaluations]
    codes = sorted({code for evaluation in found for code in evaluation.refused.values()})
    return f"refused: {', '.join(codes)}" if codes else "not evaluated yet"
