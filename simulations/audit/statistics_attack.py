"""Property inference and differencing on the statistics that a study of tables releases: counts, sums and squares.

The numbers come from the study's own query (`common.statistics.moments.MomentQuery`) behind the study's own small-cell
rule (`common.statistics.small_cell.release`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.private_release import PrivateRelease
from common.config.private_statistics import cost_of_a_question
from common.outcomes import ClassOutcome
from common.rng import generator
from common.statistics.bounds import Limits
from common.statistics.moments import MomentQuery
from common.statistics.procedure import Cohort
from common.statistics.small_cell import release
from common.tables import FeatureTable
from simulations.audit.properties import Flags, Matrix, Patients, PropertyResult, difference_attack, infer_share
from simulations.audit.protections import PRIVATE, SECURE_SUM, Protection, asked_under
from simulations.audit.subject import Subject, largest_site

N_COHORTS = 200
LARGEST_COHORT = 60
ASSUMED_RANGE = 4.0
"""Of standardised columns, in standard deviations: what private sums are bounded by."""


@dataclass(frozen=True)
class Attribute:
    """A cell of the manifest whose share at a hospital is inferred; without one, the last class of the outcome."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} = {self.value}"


def has_attribute(subject: Subject, attribute: Attribute | None, site: str) -> Flags | None:
    """Who has the attribute, in the order of the hospital's cases; None where the study gives nothing to infer."""
    data = subject.datasets[site]
    if attribute is None:
        if not isinstance(data.outcome, ClassOutcome):
            return None
        return np.asarray(data.outcome.labels == len(data.outcome.classes) - 1, dtype=np.bool_)
    cells = _cells(subject.folder / "sites" / site / "cases.csv", subject.study.case_column, attribute.column)
    return np.array([cells.get(case_id, "") == attribute.value for case_id in data.features.case_ids], dtype=np.bool_)


def property_inference(subject: Subject, attribute: Attribute | None, protection: Protection) -> PropertyResult | None:
    """The attack on the first training hospital, by someone who knows other patients of it: those held out.

    Knowing patients of other hospitals alone gave nothing on generated cases, because scanners shift features more than
    the property does; this is the worst case.

    Returns
    -------
    PropertyResult or None
        None where the study has no table, or nobody with or without the attribute on a side.
    """
    site = subject.course.trainers[0]
    flags = has_attribute(subject, attribute, site)
    if flags is None or not _has_table(subject):
        return None
    trained, rows = subject.trained_on(site), _rows(subject, site)
    known, target = Patients(rows[~trained], flags[~trained]), Patients(rows[trained], flags[trained])
    if any(not side.has.any() or side.has.all() for side in (known, target)):
        return None
    return infer_share(
        known,
        target,
        _released(subject, protection, known.rows.mean(axis=0)),
        n_cases=min(LARGEST_COHORT, len(target.rows)),
        n_cohorts=N_COHORTS,
        n_summed=len(subject.course.trainers) if protection == SECURE_SUM else 1,
        rng=generator(subject.study.seed, "audit", "property", protection),
    )


def differencing(subject: Subject, protection: Protection) -> float | None:
    """How well one patient's row is known from the same statistic asked with and without the patient.

    Under secure aggregation the sum over all hospitals is seen, and the other hospitals' cases stay the same between
    both questions. None where the study has no table.
    """
    if not _has_table(subject):
        return None
    victim, *others = subject.course.trainers
    rows = _rows(subject, victim)
    with_others = protection == SECURE_SUM and others
    rest = np.vstack([_rows(subject, site) for site in others]) if with_others else rows[:0]
    n_features = rows.shape[1]
    released = _released(subject, protection, np.zeros(n_features))
    before, after = released(np.vstack([rows[:-1], rest])), released(np.vstack([rows, rest]))
    return difference_attack(before[:n_features], after[:n_features], rows[-1])


def _released(subject: Subject, protection: Protection, centre: Matrix) -> Callable[[Matrix], Matrix]:
    """From rows (n, F) to sums and sums of squares about ``centre``, shape (2 F,), as they leave a hospital."""
    names = _names(subject)
    study = asked_under(subject.study, protection, n_cases=largest_site(subject))
    cost = cost_of_a_question(study) if protection == PRIVATE else None
    ends = np.full(len(names), ASSUMED_RANGE)
    limits = Limits(names, -ends, ends, complete=True)
    query = MomentQuery(names, "all", ("all",), centre[None, :], 2)

    def released(rows: Matrix) -> Matrix:
        ids = tuple(f"{number:06d}" for number in range(len(rows)))
        clipped = rows if cost is None else np.clip(rows, -ASSUMED_RANGE, ASSUMED_RANGE)
        cohort = Cohort(
            table=FeatureTable(clipped, names, ids),
            clinical=FeatureTable(np.zeros((len(rows), 0)), (), ids),
            outcome=ClassOutcome(np.zeros(len(rows), dtype=np.int64), ("any", "none")),
            batch=("any",) * len(rows),
        )
        if cost is None:
            sums = release(query, cohort, minimum_cases=study.privacy.minimum_cases)
        else:
            # an attack spends nobody's budget: what the study's own ledger reserves is one answer, here many are drawn
            sums = PrivateRelease(cost, lambda _: None).statistic(query, cohort, limits)
        return np.concatenate([sums["power_1"].ravel(), sums["power_2"].ravel()])

    return released


def _has_table(subject: Subject) -> bool:
    return any(entry.model.needs_table for entry in subject.study.models)


def _names(subject: Subject) -> tuple[str, ...]:
    return _table(subject, subject.course.trainers[0]).names


def _rows(subject: Subject, site: str) -> Matrix:
    """Features and clinical columns on one scale; what is missing stands at the mean."""
    pooled = np.vstack([_table(subject, name).values for name in subject.course.trainers])
    centre, spread = np.nanmean(pooled, axis=0), np.nanstd(pooled, axis=0)
    values = (_table(subject, site).values - centre) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.nan_to_num(values), dtype=np.float64)


def _table(subject: Subject, site: str) -> FeatureTable:
    """After the learned steps, whose moments a study asks for too (after ComBat, for example)."""
    return subject.table(site)


def _cells(path: Path, case_column: str, column: str) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[case_column].strip(): row.get(column, "").strip() for row in csv.DictReader(file, restval="")}
