"""One query of each classical model, and the cohorts and splits on which its merge law holds."""

from __future__ import annotations

import numpy as np

from common.statistics.boosting import BoostingQuery
from common.statistics.cox import CoxBinsQuery, CoxStrataQuery
from common.statistics.discrete_survival import HazardQuery
from common.statistics.forest import ForestQuery
from common.statistics.margins import MarginQuery
from common.statistics.procedure import Cohort, Query
from common.statistics.xgboost_trees import XgboostQuery
from tests.common.statistics.cohorts import by_batch, cohort, split
from tests.common.statistics.survival_cohorts import survival_cohort

NAMES = tuple(f"feature-{j:03d}" for j in range(4))
STANDARD = (np.full(4, 0.5), np.full(4, 2.0))

EDGES = np.tile(np.array([-1.0, 0.0, 1.0]), (4, 1))
TREES = tuple(np.array(numbers) for numbers in ([0, 1], [-1, 2, -1, -1], [0, 1, 0, 0], [0, 2, 0, 0]))

MODEL_EXAMPLES: tuple[Query, ...] = (
    CoxStrataQuery(NAMES, "batch", "efron", *STANDARD, np.full(4, 0.1)),
    CoxBinsQuery(NAMES, np.array([100.0, 400.0, 900.0]), *STANDARD, np.full(4, 0.1)),
    ForestQuery(
        NAMES,
        EDGES,
        ("class-0", "class-1"),
        *TREES,
        np.array([0, 2]),
        np.array([0, 1]),
        np.array([[0, 1], [1, 3]]),
        True,
        ("scanner-0", "scanner-2"),
        1,
    ),
    BoostingQuery(NAMES, EDGES, "logistic", -0.2, *TREES, np.array([0.1, 0, 0, 0]), np.array([2, 3]), 1),
    XgboostQuery(NAMES, EDGES, "logistic", -0.2, *TREES, np.array([0.1, 0, 0, 0]), 2, 0.3, 1.0, 2),
    MarginQuery(NAMES, *STANDARD, 6, 0.2, 11, "squared_hinge", 0.1, np.full(7, 0.1)),
    HazardQuery(NAMES, *STANDARD, np.array([100.0, 400.0, 900.0]), np.full(3, -1.0), np.full(4, 0.1)),
)

_CLASSES = cohort(80, 4, seed=4)
_FOLLOWED = survival_cohort(80, 4, seed=4)
_FOLLOW_UP_KINDS = ("cox_strata", "cox_bins", "discrete_hazards")
_STRATIFIED_KINDS = ("cox_strata",)


def whole_of(query: Query) -> Cohort:
    """A cohort that the query can be asked of."""
    return _FOLLOWED if query.kind in _FOLLOW_UP_KINDS else _CLASSES


def sites_of(query: Query, n_sites: int, *, seed: int) -> list[Cohort]:
    """Any split; for a query with strata, one that keeps each stratum at one site."""
    whole = whole_of(query)
    return by_batch(whole) if query.kind in _STRATIFIED_KINDS else split(whole, n_sites, seed=seed)
