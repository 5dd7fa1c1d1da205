"""How many cases stand behind sums that involve the outcome: the classes, or events, within each group of rows."""

from __future__ import annotations

import numpy as np

from common.outcomes import ClassOutcome, ScalarOutcome
from common.statistics.columns import Indices, Matrix, indicator, sizes
from common.statistics.procedure import Cohort


def outcome_labels(cohort: Cohort) -> tuple[Indices, tuple[str, ...]]:
    """A label a case and the labels' names: outcome classes, or censored and event; one group for a scalar outcome."""
    outcome = cohort.outcome
    if isinstance(outcome, ClassOutcome):
        return outcome.labels, outcome.classes
    if isinstance(outcome, ScalarOutcome):
        return np.zeros(len(outcome), dtype=np.int64), ("all",)
    return outcome.event.astype(np.int64), ("censored", "event")


def outcome_group_sizes(cohort: Cohort, rows: Indices, n_groups: int) -> Indices:
    """Cases of each group and of each outcome label within it, shape (n_groups, 1 + n_labels).

    A sum of feature times 0/1 outcome is a sum over the cases of class 1 alone, so its classes are its groups.
    """
    labels, names = outcome_labels(cohort)
    by_label = [sizes(rows[labels == k], n_groups) for k in range(len(names))]
    return np.stack([sizes(rows, n_groups), *by_label], axis=1)


def outcome_codes(cohort: Cohort) -> Matrix:
    """The outcome as numbers (n_cases, n_codes): classes but the first as 0/1, the value, or event and time in days."""
    outcome = cohort.outcome
    if isinstance(outcome, ScalarOutcome):
        return outcome.values[:, None]
    if isinstance(outcome, ClassOutcome):
        return indicator(outcome.labels, len(outcome.classes))[:, 1:]
    return np.column_stack([outcome.event.astype(np.float64), outcome.time_days])
