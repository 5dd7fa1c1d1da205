"""How queries read a cohort: named feature columns, groups of rows, folds. Everything here stays at the site."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from common.errors import StatisticError
from common.outcomes import ClassOutcome, ScalarOutcome
from common.statistics.procedure import Cohort
from common.tables import FeatureTable

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

Grouping = Literal["all", "class", "batch"]
"""Which rows are summed together: all cases, the cases of an outcome class, the cases of a ComBat batch."""

ALL_CASES = ("all",)


def columns(table: FeatureTable, names: Sequence[str]) -> Matrix:
    """The named columns (n_cases, len(names)); NaN where a value is missing.

    Raises
    ------
    StatisticError
        Where a column is not in the table, by name.
    """
    if tuple(names) == table.names:
        return table.values
    try:
        return table.select(names).values
    except KeyError as absent:
        raise StatisticError(f"{absent.args[0]}; the table has {table.n_features} features") from absent


def complete_columns(table: FeatureTable, names: Sequence[str]) -> Matrix:
    """As `columns`, for statistics that are undefined on missing values.

    Raises
    ------
    StatisticError
        Where a value is missing, with the features and their counts.
    """
    values = columns(table, names)
    missing = np.isnan(values).sum(axis=0)
    if missing.any():
        listing = ", ".join(f"{names[j]} ({missing[j]} of {len(values)})" for j in np.flatnonzero(missing)[:5])
        raise StatisticError(f"missing values in {np.count_nonzero(missing)} features: {listing}; impute before")
    return values


def class_labels(cohort: Cohort) -> tuple[Indices, tuple[str, ...]]:
    """Labels (n_cases,) and class names; StatisticError for an outcome that has no classes."""
    outcome = cohort.outcome
    if not isinstance(outcome, ClassOutcome):
        raise StatisticError(f"this statistic needs an outcome with classes, got {type(outcome).__name__}")
    return outcome.labels, outcome.classes


def response(cohort: Cohort) -> Matrix:
    """The outcome as a number a case (n_cases,): a scalar outcome, or 0 and 1 for two classes."""
    outcome = cohort.outcome
    if isinstance(outcome, ScalarOutcome):
        return outcome.values
    labels, classes = class_labels(cohort)
    if len(classes) != 2:
        raise StatisticError(f"a linear model needs two classes or a number, got {len(classes)} classes")
    return labels.astype(np.float64)


def group_rows(cohort: Cohort, by: str, groups: Sequence[str]) -> Indices:
    """Index into ``groups`` of each row, shape (n_cases,).

    Raises
    ------
    StatisticError
        Where a row belongs to no agreed group, by name; where ``by`` is unknown.
    """
    if by not in get_args(Grouping):
        raise StatisticError(f"grouping {by!r}, expected one of {', '.join(get_args(Grouping))}")
    if by == "all":
        return np.zeros(cohort.table.n_cases, dtype=np.int64)
    if by == "class":
        labels, classes = class_labels(cohort)
        if tuple(groups) != classes:
            raise StatisticError(f"classes {classes} at this site, the study agreed on {tuple(groups)}")
        return labels
    position = {name: i for i, name in enumerate(groups)}
    unknown = sorted(set(cohort.batch) - position.keys())
    if unknown:
        raise StatisticError(f"batches not agreed on: {', '.join(unknown)}; agreed: {', '.join(groups)}")
    return np.array([position[name] for name in cohort.batch], dtype=np.int64)


def indicator(rows: Indices, n_groups: int) -> Matrix:
    """One-hot matrix (n_cases, n_groups): its product with values sums them by group."""
    member: Matrix = (rows[:, None] == np.arange(n_groups)[None, :]).astype(np.float64)
    return member


def sizes(rows: Indices, n_groups: int) -> Indices:
    """Number of rows of each group (n_groups,)."""
    return np.bincount(rows, minlength=n_groups).astype(np.int64)


def case_words(cohort: Cohort, purpose: str) -> npt.NDArray[np.uint64]:
    """A 64-bit word a case (n_cases,) from the study seed, ``purpose`` and the case id.

    A draw that starts here does not depend on which other cases lie at the site: folds and resamples are the same for
    any split of the cohort into sites, as long as these have no ``secret``.
    """
    prefix = hashlib.sha256(f"{cohort.seed}\x1f{cohort.secret}\x1f{purpose}\x1f".encode())
    words = np.empty(cohort.table.n_cases, dtype=np.uint64)
    for i, case_id in enumerate(cohort.table.case_ids):
        sha = prefix.copy()
        sha.update(case_id.encode())
        words[i] = int.from_bytes(sha.digest()[:8], "big")
    return words


def fold_rows(cohort: Cohort, n_folds: int) -> Indices:
    """Cross-validation fold of each case (n_cases,), 0..n_folds-1: the same for any split of the cohort into sites."""
    return (case_words(cohort, "fold") % np.uint64(n_folds)).astype(np.int64)


def listed(names: Sequence[str], positions: npt.NDArray[np.integer[Any]] | Sequence[int], *, most: int = 5) -> str:
    """The named positions in words: the first ``most`` and how many more."""
    shown = ", ".join(names[int(j)] for j in positions[:most])
    return shown if len(positions) <= most else f"{shown} and {len(positions) - most} more"
