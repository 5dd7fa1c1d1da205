"""Merged gradient boosting against scikit-learn's histogram boosting on the same bins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from common.errors import GateError, StatisticError
from common.statistics import decode_query, encode_query
from common.statistics.boosting import BoostingSettings, boosting
from common.statistics.procedure import run
from common.statistics.quantiles import balanced_edges
from common.statistics.small_cell import release
from common.statistics.trees import binned
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split, take

SETTINGS = BoostingSettings(n_trees=20, max_depth=3, least_cases=10, ridge=1.0)


def edges_of(whole, n_bins=16):
    return solve(lambda: balanced_edges(whole.table.names, n_bins), [whole])


def oracle(kind, settings):
    return kind(
        learning_rate=settings.learning_rate,
        max_iter=settings.n_trees,
        max_leaf_nodes=None,
        max_depth=settings.max_depth,
        min_samples_leaf=settings.least_cases,
        l2_regularization=settings.ridge,
        early_stopping=False,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_scikit_learn_on_the_bins(seed):
    whole = cohort(500, 6, seed=seed)
    edges = edges_of(whole)
    found = solve(lambda: boosting(whole.table.names, edges, SETTINGS), split(whole, 4))
    bins = binned(whole.table, whole.table.names, edges)
    expected = oracle(HistGradientBoostingClassifier, SETTINGS).fit(bins, whole.outcome.labels).predict_proba(bins)
    np.testing.assert_allclose(found.predict(whole.table), expected, atol=1e-5)


def test_regression_equals_scikit_learn_on_the_bins():
    whole = cohort(400, 6, scalar=True)
    edges = edges_of(whole)
    settings = replace(SETTINGS, loss="squared", learning_rate=0.3)
    found = solve(lambda: boosting(whole.table.names, edges, settings), split(whole, 4))
    bins = binned(whole.table, whole.table.names, edges)
    expected = oracle(HistGradientBoostingRegressor, settings).fit(bins, whole.outcome.values).predict(bins)
    np.testing.assert_allclose(found.predict(whole.table)[:, 0], expected, rtol=1e-4)


def test_the_merged_ensemble_is_the_pooled_one():
    whole = cohort(300, 6, seed=5)
    edges = edges_of(whole)
    pooled = solve(lambda: boosting(whole.table.names, edges, SETTINGS), [whole])
    for n_sites in (2, 6):
        merged = solve(lambda: boosting(whole.table.names, edges, SETTINGS), split(whole, n_sites))
        np.testing.assert_array_equal(pooled.feature, merged.feature)
        np.testing.assert_allclose(pooled.outputs, merged.outputs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(pooled.importance, merged.importance, rtol=1e-9)


def test_groups_cost_little_and_pass_the_rule():
    whole = cohort(900, 8, seed=2, shift=0.0, signal=0.6)
    train, test = take(whole, np.arange(600)), take(whole, np.arange(600, 900))
    sites, edges = split(train, 3), edges_of(train)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in sites]

    guarded = run(boosting(train.table.names, edges, replace(SETTINGS, group_size=5)), ask)
    exact = solve(lambda: boosting(train.table.names, edges, SETTINGS), sites)
    areas = [roc_auc_score(test.outcome.labels, model.predict(test.table)[:, 1]) for model in (guarded, exact)]
    assert areas[0] > areas[1] - 0.03
    with pytest.raises(GateError):
        run(boosting(train.table.names, edges, SETTINGS), ask)


def test_bytes_do_not_grow_with_cases():
    sizes = []
    for n in (200, 1000):
        whole = cohort(n, 6)
        ask, _, answered = ask_and_record(split(whole, 3))
        run(boosting(whole.table.names, edges_of(whole), replace(SETTINGS, n_trees=1, max_depth=1)), ask)
        sizes.append(sum(array.nbytes for array in answered[-1][0].values()))
    assert sizes[0] == sizes[1] == 6 * 16 * 3 * 8


def test_bad_input_is_named():
    whole = cohort(100, 6)
    one_class = take(whole, np.flatnonzero(whole.outcome.labels == 1))
    edges = edges_of(whole)
    with pytest.raises(StatisticError, match="needs both classes: 5"):
        solve(lambda: boosting(whole.table.names, edges), [one_class])
    with pytest.raises(StatisticError, match="needs both classes: -"):
        solve(lambda: boosting(whole.table.names, edges), [cohort(80, 6, scalar=True)])
    separated = replace(whole, table=whole.table.with_values(np.tile(whole.outcome.labels[:, None] * 1.0, (1, 6))))
    eager = BoostingSettings(n_trees=400, learning_rate=1.0, ridge=0.0, max_depth=1)
    with pytest.raises(StatisticError, match="classes are separated"):
        solve(lambda: boosting(whole.table.names, np.full((6, 1), 0.5), eager), [separated])
