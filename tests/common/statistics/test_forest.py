"""Merged trees: equal to the pooled ones for any split, to scikit-learn on the bins, and safe in groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from common.errors import GateError, StatisticError
from common.statistics import decode_query, encode_query
from common.statistics.case_groups import SiteCases
from common.statistics.forest import ForestQuery, ForestSettings, forest
from common.statistics.procedure import run
from common.statistics.quantiles import balanced_edges
from common.statistics.small_cell import release
from common.statistics.trees import Trees, binned
from tests.common.statistics.cohorts import ask_and_record, by_batch, cohort, solve, split, take

CLASSES = ("class-0", "class-1")
ONE_TREE = ForestSettings(n_trees=1, max_depth=4, n_columns=6, least_cases=3, bootstrap=False)


def edges_of(whole, n_bins=16):
    return solve(lambda: balanced_edges(whole.table.names, n_bins), [whole])


def grow(whole, sites, settings=ONE_TREE, *, edges=None, classes=CLASSES):
    edges = edges_of(whole) if edges is None else edges
    return solve(lambda: forest(whole.table.names, classes, edges, settings), sites)


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_tree_equals_scikit_learn_on_the_bins(seed, n_classes):
    """Seeds without two cuts of equal gain, between which scikit-learn draws and we take the first."""
    whole = cohort(400, 6, seed=seed, n_classes=n_classes)
    edges = edges_of(whole)
    classes = tuple(f"class-{k}" for k in range(n_classes))
    found = grow(whole, split(whole, 5), edges=edges, classes=classes)
    bins = binned(whole.table, whole.table.names, edges)
    oracle = DecisionTreeClassifier(max_depth=4, min_samples_leaf=3, random_state=0).fit(bins, whole.outcome.labels)
    np.testing.assert_allclose(found.predict(whole.table), oracle.predict_proba(bins), atol=1e-12)
    np.testing.assert_allclose(found.importance, oracle.feature_importances_, atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(n_sites=st.integers(2, 6), seed=st.integers(0, 1000))
def test_the_merged_forest_is_the_pooled_forest(n_sites, seed):
    whole = cohort(150, 6, seed=3)
    settings = ForestSettings(n_trees=6, max_depth=4)
    edges = edges_of(whole)
    pooled, merged = (
        grow(whole, [whole], settings, edges=edges),
        grow(whole, split(whole, n_sites, seed=seed), settings, edges=edges),
    )
    for name in ("roots", "feature", "cut", "left"):
        np.testing.assert_array_equal(getattr(pooled, name), getattr(merged, name))
    np.testing.assert_array_equal(pooled.outputs, merged.outputs)


def test_trees_dealt_to_sites_are_their_own_trees():
    whole = cohort(300, 6, seed=4)
    edges, batches = edges_of(whole), ("scanner-0", "scanner-1", "scanner-2")
    settings = replace(ONE_TREE, n_trees=3, batches=batches)
    together = grow(whole, split(whole, 4), settings, edges=edges)
    alone = [grow(whole, [site], ONE_TREE, edges=edges).predict(whole.table) for site in by_batch(whole)]
    np.testing.assert_allclose(together.predict(whole.table), np.mean(alone, axis=0))


def test_as_good_as_scikit_learn_on_new_cases():
    whole = cohort(900, 12, seed=7, shift=0.0, signal=0.6)
    train, test = take(whole, np.arange(600)), take(whole, np.arange(600, 900))
    found = grow(train, split(train, 4), ForestSettings(n_trees=60, max_depth=5))
    guarded = grow(train, split(train, 4), ForestSettings(n_trees=60, max_depth=5, group_size=5))
    oracle = RandomForestClassifier(60, max_depth=5, min_samples_leaf=5, random_state=0)
    oracle.fit(train.table.values, train.outcome.labels)
    labels = test.outcome.labels
    expected = roc_auc_score(labels, oracle.predict_proba(test.table.values)[:, 1])
    assert roc_auc_score(labels, found.predict(test.table)[:, 1]) > expected - 0.02
    assert roc_auc_score(labels, guarded.predict(test.table)[:, 1]) > expected - 0.04
    np.testing.assert_allclose(found.predict(test.table).sum(axis=1), 1.0)


def test_runs_behind_the_small_cell_rule():
    whole = cohort(300, 6)
    edges = edges_of(whole)
    settings = ForestSettings(n_trees=5, max_depth=4, group_size=5)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in split(whole, 3)]

    run(forest(whole.table.names, CLASSES, edges, settings), ask)
    with pytest.raises(GateError):
        run(forest(whole.table.names, CLASSES, edges, ForestSettings(n_trees=5, max_depth=4)), ask)


def site_of(seed, n, group_size, edges):
    rng = np.random.default_rng(seed)
    values, labels = rng.integers(0, 12, (n, 3)) / 2, rng.integers(0, 2, n)
    site = SiteCases(values.astype(np.float64), edges, labels, 2, group_size)
    return site, site.kept(np.flatnonzero(rng.random(n) < 0.8))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), group_size=st.integers(1, 9), n=st.integers(0, 80))
def test_what_is_sent_are_groups_of_each_class_and_cases_move_with_them(seed, group_size, n):
    edges, every = np.tile(np.arange(7) * 0.8, (3, 1)), np.arange(3)
    site, rows = site_of(seed, n, group_size, edges)
    counts = site.group_counts(rows, every)
    assert ((counts == 0) | (counts >= group_size)).all()
    sent = site.sums(rows, every, np.ones((len(rows), 1)))[:, :, 0]
    for feature, cut in [(0, 3), (2, 5)]:
        trees = Trees.stumps(1).with_cuts(np.array([0]), np.array([feature]), np.array([cut]))
        inside = site.assigned(trees, 0, rows)
        assert len(inside[1]) == sent[feature, cut]
        assert sorted([*inside[1], *inside[2]]) == sorted(rows)
    exact = np.array([[(site.values[rows, j] <= edge).sum() for edge in edges[j]] for j in every])
    if group_size == 1:
        np.testing.assert_array_equal(sent[:, :-1], exact)
    elif len(rows):
        assert np.abs(sent[:, :-1] - exact).max() <= len(rows)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    group_size=st.integers(2, 7),
    asked=st.lists(st.lists(st.floats(-1, 7), min_size=1, max_size=8), min_size=1, max_size=5),
)
def test_no_sequence_of_cuts_of_a_feature_isolates_a_small_group(seed, group_size, asked):
    """The attacker asks for any edges, again and again, and subtracts what arrives."""
    seen = []
    for cuts in asked:
        site, rows = site_of(seed, 70, group_size, np.tile(np.sort(cuts), (3, 1)))
        member = (site.labels[rows][:, None] == np.arange(2)).astype(np.float64)
        seen.append(site.sums(rows, np.array([1]), member)[0])
    sums = np.vstack([np.zeros((1, 2)), *seen])
    differences = np.abs(sums[:, None, :] - sums[None, :, :])
    assert ((differences == 0) | (differences >= group_size)).all()


def test_bytes_do_not_grow_with_cases():
    sizes = []
    for n in (200, 1200):
        whole = cohort(n, 6)
        ask, _, answered = ask_and_record(split(whole, 3))
        run(forest(whole.table.names, CLASSES, edges_of(whole), ForestSettings(n_trees=4, max_depth=1)), ask)
        sizes.append(sum(array.nbytes for array in answered[0][0].values()))
    assert sizes[0] == sizes[1] == 4 * 2 * 16 * 2 * 8


def test_trees_from_the_wire_are_checked():
    good = Trees.stumps(2).with_cuts(np.array([0]), np.array([1]), np.array([2]))
    good.check(3, 5)
    assert good.leaves(np.array([[0, 9, 0], [0, 1, 0]])).tolist() == [[3, 1], [2, 1]]
    endless = Trees(good.roots, good.feature, good.cut, np.zeros(4, dtype=np.int64))
    outside = Trees(good.roots + 9, good.feature, good.cut, good.left)
    for wrong, shape in ((good, (1, 5)), (good, (3, 2)), (endless, (3, 5)), (outside, (3, 5))):
        with pytest.raises(ValueError, match="points outside"):
            wrong.check(*shape)


def test_bad_input_is_named():
    whole = cohort(100, 6)
    with pytest.raises(StatisticError, match="do not fit 6 features"):
        grow(whole, [whole], edges=np.zeros((2, 3)))
    with pytest.raises(StatisticError, match="the study agreed on"):
        grow(whole, [whole], classes=("a", "b"))
    alone = take(whole, np.flatnonzero(whole.outcome.labels == 1))
    with pytest.raises(StatisticError, match="absent classes class-0"):
        grow(whole, [alone], edges=edges_of(whole))
    with pytest.raises(ValueError, match="must be positive"):
        ForestSettings(max_depth=0)
    assert ForestQuery.kind == "forest"
