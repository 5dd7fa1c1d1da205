"""Cohorts with follow-up: hazards depend on the features, baselines on the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.outcomes import SurvivalOutcome
from common.statistics.procedure import Cohort
from tests.common.statistics.cohorts import cohort


def survival_cohort(
    n_cases: int = 150,
    n_features: int = 4,
    *,
    seed: int = 0,
    n_batches: int = 3,
    strength: float = 0.5,
    tied_days: float | None = None,
) -> Cohort:
    """As `cohort`, with exponential event and censoring times; ``tied_days`` rounds times up to its multiples."""
    whole = cohort(n_cases, n_features, seed=seed, n_batches=n_batches, shift=0.0)
    rng = np.random.default_rng(seed + 1)
    z = (whole.table.values - whole.table.values.mean(axis=0)) / whole.table.values.std(axis=0)
    score = strength * z @ rng.choice([-1.0, 1.0], n_features)
    batch = np.array([int(name.split("-")[1]) for name in whole.batch])
    event_days = rng.exponential(600 * (1 + batch) * np.exp(-score))
    censor_days = rng.exponential(1500, n_cases)
    time = np.maximum(np.minimum(event_days, censor_days), 1.0)
    if tied_days is not None:
        time = np.ceil(time / tied_days) * tied_days
    return replace(whole, outcome=SurvivalOutcome(event_days <= censor_days, time))
