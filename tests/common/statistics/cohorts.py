"""Seeded synthetic cohorts, and their splits into sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from common.outcomes import ClassOutcome, Outcome, ScalarOutcome
from common.statistics.procedure import Ask, Cohort, Procedure, Query, Sums, ask_cohorts, run
from common.tables import FeatureTable


def cohort(
    n_cases: int = 120,
    n_features: int = 6,
    *,
    seed: int = 0,
    n_batches: int = 3,
    shift: float = 1.0,
    signal: float = 1.0,
    n_classes: int = 2,
    scalar: bool = False,
) -> Cohort:
    """One pooled cohort: features with batch shifts and scales, class signal in the first half of the features."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, n_batches, n_cases)
    rows[:n_batches] = np.arange(n_batches)
    labels = rng.integers(0, n_classes, n_cases)
    age = np.round(rng.normal(60, 10, n_cases))
    sex = rng.integers(0, 2, n_cases).astype(np.float64)
    values = rng.normal(size=(n_cases, n_features)) @ (np.eye(n_features) + 0.1 * rng.normal(size=(n_features,) * 2))
    informative = np.arange(n_features) < (n_features + 1) // 2
    values += signal * labels[:, None] * informative * rng.uniform(0.3, 1.0, n_features)
    values += 0.02 * (age[:, None] - 60) * rng.normal(size=n_features) + 0.3 * sex[:, None] * rng.normal(
        size=n_features
    )
    location = shift * rng.normal(size=(n_batches, n_features))
    scale = np.exp(0.4 * shift * rng.normal(size=(n_batches, n_features)))
    values = values * scale[rows] + location[rows] + 10 * rng.normal(size=n_features)
    ids = tuple(f"case-{i:05d}" for i in range(n_cases))
    outcome: Outcome
    if scalar:
        outcome = ScalarOutcome(values[:, 0] - 0.5 * values[:, 1] + rng.normal(size=n_cases), "ml")
    else:
        outcome = ClassOutcome(labels.astype(np.int64), tuple(f"class-{k}" for k in range(n_classes)))
    return Cohort(
        table=FeatureTable(values, tuple(f"feature-{j:03d}" for j in range(n_features)), ids),
        clinical=FeatureTable(np.column_stack([age, sex]), ("age", "sex"), ids),
        outcome=outcome,
        batch=tuple(f"scanner-{b}" for b in rows),
        seed=11,
    )


def take(whole: Cohort, rows: np.ndarray) -> Cohort:
    ids = [whole.table.case_ids[i] for i in rows]
    return replace(
        whole,
        table=whole.table.rows(ids),
        clinical=whole.clinical.rows(ids),
        outcome=whole.outcome.take(rows),
        batch=tuple(whole.batch[i] for i in rows),
    )


def split(whole: Cohort, n_sites: int, *, seed: int = 1) -> list[Cohort]:
    """Cases dealt to sites at random: batches span sites, sites may be empty of a batch."""
    dealt = np.random.default_rng(seed).integers(0, n_sites, whole.table.n_cases)
    dealt[:n_sites] = np.arange(n_sites)
    return [take(whole, np.flatnonzero(dealt == site)) for site in range(n_sites)]


def by_batch(whole: Cohort) -> list[Cohort]:
    """One site a batch."""
    return [
        take(whole, np.array([i for i, name in enumerate(whole.batch) if name == batch]))
        for batch in sorted(set(whole.batch))
    ]


def ask_and_record(cohorts: Sequence[Cohort]) -> tuple[Ask, list[Query], list[Sequence[Sums]]]:
    """As `ask_cohorts`, with everything that was asked and answered."""
    asked: list[Query] = []
    answered: list[Sequence[Sums]] = []
    inner = ask_cohorts(cohorts)

    def ask(query: Query) -> Sequence[Sums]:
        asked.append(query)
        answered.append(inner(query))
        return answered[-1]

    return ask, asked, answered


def solve(make: Callable[[], Procedure], cohorts: Sequence[Cohort]):
    """The result of a procedure over these sites."""
    return run(make(), ask_cohorts(cohorts))
