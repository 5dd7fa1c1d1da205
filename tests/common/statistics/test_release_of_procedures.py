"""Every procedure runs on what the small-cell rule lets out, and on the wire's values of its queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import GateError
from common.statistics import QUERIES, decode_query, encode_query
from common.statistics.batch_effect import batch_effect
from common.statistics.combat_model import CombatSettings
from common.statistics.design import Covariates
from common.statistics.lasso import PenaltySettings, lasso
from common.statistics.leakage import LeakageGuard, guarded_combat
from common.statistics.logistic import logistic_lasso
from common.statistics.moments import moments
from common.statistics.pca import principal_components, randomised_components
from common.statistics.procedure import run
from common.statistics.quantiles import median_imputer
from common.statistics.selection_filters import uncorrelated
from common.statistics.selection_information import mrmr
from common.statistics.selection_tests import mann_whitney, welch
from common.statistics.small_cell import release
from common.statistics.stability import stable_lasso, stable_ranking
from tests.common.statistics.cohorts import cohort, split, take

NAMES = tuple(f"feature-{j:03d}" for j in range(6))
CLASSES = ("class-0", "class-1")
BATCHES = ("scanner-0", "scanner-1", "scanner-2")
SEX = Covariates(("age",), ("sex",), (2,), (0.0, 1.0))

PROCEDURES = {
    "combat": lambda: guarded_combat(NAMES, CombatSettings(BATCHES, SEX), LeakageGuard(), labels=CLASSES, n_codes=1),
    "moments": lambda: moments(NAMES),
    "median": lambda: median_imputer(NAMES),
    "welch": lambda: welch(NAMES, CLASSES),
    "mann_whitney": lambda: mann_whitney(NAMES, CLASSES, n_bins=16),
    "mrmr": lambda: mrmr(NAMES, CLASSES, n_selected=4),
    "uncorrelated": lambda: uncorrelated(NAMES, largest=0.9),
    "lasso": lambda: lasso(NAMES, PenaltySettings(n_penalties=5, n_folds=2)),
    "logistic": lambda: logistic_lasso(NAMES, PenaltySettings(n_penalties=5, n_folds=2)),
    "pca": lambda: principal_components(NAMES, 2),
    "randomised_pca": lambda: randomised_components(NAMES, 2, seed=1),
    "batch_effect": lambda: batch_effect(NAMES, BATCHES, n_folds=2),
    "stable_ranking": lambda: stable_ranking(NAMES, CLASSES, n_selected=2, n_draws=12),
    "stable_lasso": lambda: stable_lasso(NAMES, n_selected=2, n_draws=12),
}


def ask_over_the_wire(sites, asked, *, minimum_cases):
    def ask(query):
        asked.add(type(query))
        arrived = decode_query(*encode_query(query))
        return [release(arrived, site, minimum_cases=minimum_cases) for site in sites]

    return ask


def test_every_procedure_runs_behind_the_rule_and_every_query_is_used():
    whole = cohort(600, 6)
    asked: set[type] = set()
    for make in PROCEDURES.values():
        run(make(), ask_over_the_wire(split(whole, 3), asked, minimum_cases=5))
    assert asked == {query for query in QUERIES if query.__module__ in {make.__module__ for make in asked}}


@pytest.mark.parametrize("name", PROCEDURES)
def test_a_site_with_one_case_is_refused(name):
    whole = cohort(200, 6)
    sites = [take(whole, np.arange(199)), take(whole, np.array([199]))]
    with pytest.raises(GateError):
        run(PROCEDURES[name](), ask_over_the_wire(sites, set(), minimum_cases=2))


def test_an_empty_fold_at_a_site_changes_nothing():
    whole = cohort(200, 6)
    empty = replace(take(whole, np.arange(0)), batch=())
    for name, make in PROCEDURES.items():
        if name in ("randomised_pca",):
            continue
        with_empty = run(make(), ask_over_the_wire([whole, empty], set(), minimum_cases=1))
        alone = run(make(), ask_over_the_wire([whole], set(), minimum_cases=1))
        assert type(with_empty) is type(alone)
