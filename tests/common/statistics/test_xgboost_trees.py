"""XGBoost by Flower's bagging: XGBoost itself at one hospital, Flower's strategy at several; no small leaf."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xgboost
from flwr.app import ArrayRecord, Metadata, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.serverapp.strategy import FedXgbBagging
from sklearn.metrics import roc_auc_score

from common.errors import GateError, MessageError
from common.statistics import decode_query, encode_query
from common.statistics.boosting import BoostingSettings, boosting
from common.statistics.procedure import run
from common.statistics.quantiles import balanced_edges
from common.statistics.small_cell import release
from common.statistics.trees import LEAF, binned
from common.statistics.xgboost_booster import GrownTree, read_booster
from common.statistics.xgboost_trees import (
    XgboostQuery,
    XgboostSettings,
    xgboost_bagging,
)
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split, take

SETTINGS = XgboostSettings(rounds=12, max_depth=3, learning_rate=0.3)
WHOLE = cohort(400, 6, seed=3)
NAMES = WHOLE.table.names


def edges_of(whole, n_bins=16):
    return solve(lambda: balanced_edges(whole.table.names, n_bins), [whole])


def first_query(whole=WHOLE, **changes: Any) -> XgboostQuery:
    none = np.zeros(0, dtype=np.int64)
    query = XgboostQuery(NAMES, edges_of(whole), "logistic", 0.1, none, none, none, none, np.zeros(0), 3, 0.3, 1.0, 5)
    return replace(query, **changes)


def booster_of(answer) -> dict[str, Any]:
    return json.loads(answer["booster"].tobytes())


def as_answer(query: XgboostQuery, booster: object) -> dict[str, np.ndarray]:
    return {"booster": np.frombuffer(json.dumps(booster).encode().ljust(query._length), dtype=np.uint8)}


@pytest.mark.parametrize("scalar", [False, True])
def test_one_hospital_alone_gets_xgboosts_own_model(scalar):
    whole = cohort(300, 6, seed=5, scalar=scalar)
    settings = replace(SETTINGS, loss="squared" if scalar else "logistic")
    edges = edges_of(whole)
    found = solve(lambda: xgboost_bagging(NAMES, edges, settings), [whole])
    bins = binned(whole.table, NAMES, edges).astype(np.float32)
    target = whole.outcome.values if scalar else whole.outcome.labels
    data = xgboost.DMatrix(bins, label=target, base_margin=np.full(len(bins), found.start, dtype=np.float32))
    own = {
        "objective": "reg:squarederror" if scalar else "binary:logistic",
        "max_depth": 3,
        "eta": 0.3,
        "min_child_weight": 1.0 if scalar else 0.25,
        "tree_method": "exact",
    }
    expected = xgboost.train(own, data, num_boost_round=12).predict(data)
    np.testing.assert_allclose(found.predict(whole.table)[:, -1], expected, rtol=2e-4, atol=2e-5)


def test_hospitals_trees_are_merged_as_flowers_strategy_does():
    query, sites = first_query(), split(WHOLE, 3)
    answers = [query.summarise(site) for site in sites]
    merged = query.merge(answers)["booster"].tobytes()
    strategy = FedXgbBagging()
    strategy.current_bst = b""
    replies = []
    for number, answer in enumerate(answers):
        content = RecordDict(
            {"arrays": ArrayRecord([answer["booster"]]), "metrics": MetricRecord({"num-examples": 1.0})}
        )
        metadata = Metadata(1, str(number), number + 1, 0, "", "", 0.0, 60.0, "train")
        replies.append(make_message(metadata=metadata, content=content))
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert arrays["0"].numpy().tobytes() == merged


def test_the_merged_booster_is_one_that_xgboost_loads_and_predicts_with():
    query, sites = first_query(), split(WHOLE, 3)
    merged = query.merge([query.summarise(site) for site in sites])["booster"].tobytes()
    trees = read_booster(merged, query.limits, n_trees=3)
    bins = binned(WHOLE.table, NAMES, query.edges)
    ours = sum(tree.output[tree.trees.leaves(bins)[:, 0]] for tree in trees)
    model = xgboost.Booster()
    model.load_model(bytearray(merged))
    theirs = model.predict(xgboost.DMatrix(bins.astype(np.float32)), output_margin=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_each_of_n_trees_counts_one_nth_and_the_order_of_sites_changes_nothing():
    edges, sites = edges_of(WHOLE), split(WHOLE, 3)
    one = replace(SETTINGS, rounds=1)
    merged = solve(lambda: xgboost_bagging(NAMES, edges, one), sites)
    score = np.log(merged.predict(WHOLE.table)[:, 1] / merged.predict(WHOLE.table)[:, 0]) - merged.start
    ask, _, answered = ask_and_record(sites)
    run(xgboost_bagging(NAMES, edges, one), ask)
    alone = [read_booster(a["booster"].tobytes(), first_query(edges=edges).limits, n_trees=1)[0] for a in answered[-1]]
    bins = binned(WHOLE.table, NAMES, edges)
    np.testing.assert_allclose(score, np.mean([t.output[t.trees.leaves(bins)[:, 0]] for t in alone], axis=0), atol=1e-9)
    turned = solve(lambda: xgboost_bagging(NAMES, edges, SETTINGS), sites[::-1])
    straight = solve(lambda: xgboost_bagging(NAMES, edges, SETTINGS), sites)
    np.testing.assert_allclose(turned.predict(WHOLE.table), straight.predict(WHOLE.table), rtol=1e-9)


def test_learns_like_merged_histograms():
    whole = cohort(900, 8, seed=2, shift=0.0, signal=0.6)
    train, test = take(whole, np.arange(600)), take(whole, np.arange(600, 900))
    sites, edges = split(train, 3), edges_of(train)

    def ask(query):
        return [release(decode_query(*encode_query(query)), site, minimum_cases=5) for site in sites]

    bagged = run(xgboost_bagging(train.table.names, edges, replace(SETTINGS, rounds=20, group_size=5)), ask)
    merged = run(boosting(train.table.names, edges, BoostingSettings(n_trees=20, group_size=5)), ask)
    auc = [roc_auc_score(test.outcome.labels, model.predict(test.table)[:, 1]) for model in (bagged, merged)]
    assert auc[0] > auc[1] - 0.05
    assert bagged.importance.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("minimum", [3, 10])
def test_no_output_tells_of_a_few_cases_of_a_class(seed, minimum):
    """An attacker who knows the ensemble solves each output of the first tree for cases and events of its leaf."""
    whole = cohort(120, 6, seed=seed, signal=2.0)
    query = first_query(whole, group_size=minimum, max_depth=4)
    sums = release(query, whole, minimum_cases=minimum)
    (tree,) = read_booster(sums["booster"].tobytes(), query.limits, n_trees=1)
    assert tree.trees.n_nodes > 1
    n, k = np.meshgrid(np.arange(121), np.arange(121), indexing="ij")
    p = 1 / (1 + np.exp(-query.start))
    possible = query.learning_rate * (k - n * p) / (n * p * (1 - p) + query.ridge)
    for output in tree.output[tree.trees.feature == LEAF]:
        solved = (k <= n) & (np.abs(possible + -output) < 1e-6)
        found = np.stack([n[solved] - k[solved], k[solved]])
        assert found.size
        assert ((found == 0) | (found >= minimum)).all(axis=0).any()  # the truth is among them, and is no small cell
        alone = found[:, 0] if found.shape[1] == 1 else np.zeros(2)
        assert ((alone == 0) | (alone >= minimum)).all()
    node = booster_of(sums)["learner"]["gradient_booster"]["model"]["trees"][0]
    assert not any(node["sum_hessian"])  # notes that nobody needs stay
    assert not any(node["base_weights"])


def test_a_hospital_with_a_few_cases_of_a_class_sends_none():
    labels = np.zeros(40, dtype=np.int64)
    labels[:2] = 1
    few = take(WHOLE, np.arange(40))
    few = replace(few, outcome=replace(few.outcome, labels=labels))
    with pytest.raises(GateError, match="fewer than 5 cases"):
        release(first_query(), few, minimum_cases=5)


def test_an_empty_hospital_adds_nothing():
    none = take(WHOLE, np.zeros(0, dtype=np.int64))
    query = first_query()
    (tree,) = read_booster(query.summarise(none)["booster"].tobytes(), query.limits, n_trees=1)
    assert tree.trees.n_nodes == 1
    assert tree.output[0] == 0


def damaged(path: tuple[Any, ...], value: object):
    def damage(booster):
        place = booster["learner"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        return booster

    return damage


TREE = ("gradient_booster", "model", "trees", 0)
DAMAGES = {
    "unknown field": damaged(("attributes",), {"best_iteration": "1"}),
    "names": damaged(("feature_names",), ["a"]),
    "two trees said": damaged(("gradient_booster", "model", "gbtree_model_param"), {"num_trees": "2"}),
    "feature outside": damaged((*TREE, "split_indices"), [99, 0, 0]),
    "endless": damaged((*TREE, "left_children"), [0, -1, -1]),
    "text": damaged((*TREE, "split_conditions"), ["1", "2", "3"]),
    "not finite": damaged((*TREE, "split_conditions"), [3.5, float("nan"), 0.1]),
    "huge": damaged((*TREE, "split_conditions"), [3.5, 1e30, 0.1]),
    "hessians": damaged((*TREE, "sum_hessian"), [3.0, 1.0, 2.0]),
    "nested": damaged((*TREE, "split_conditions"), [[3.5], [0.1], [0.1]]),
    "lengths": damaged((*TREE, "right_children"), [2]),
    "no trees": damaged(("gradient_booster", "model", "trees"), []),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_crafted_booster_is_refused(name):
    query = first_query(max_depth=1)
    whole = query.summarise(WHOLE)
    query.check(whole)
    with pytest.raises(MessageError):
        query.check(as_answer(query, DAMAGES[name](booster_of(whole))))


def test_bytes_that_are_none_are_refused():
    query = first_query()
    for answer in (
        {},
        {"booster": np.zeros(10, dtype=np.uint8)},
        {"booster": np.zeros(query._length, dtype=np.uint8)},
        {"booster": np.full(query._length, ord("["), dtype=np.uint8)},
        {**query.summarise(WHOLE), "more": np.zeros(1)},
    ):
        with pytest.raises(MessageError):
            query.check(answer)


def test_a_tree_deeper_than_agreed_is_refused():
    deep = first_query(max_depth=4, group_size=1)
    answer = booster_of(deep.summarise(WHOLE))
    with pytest.raises(MessageError, match="deeper"):
        first_query(max_depth=1).check(as_answer(first_query(max_depth=1), answer))


def test_undoing_a_split_leaves_the_rest_as_it_was():
    (tree, _) = first_query(group_size=1)._grown(WHOLE)
    leaf = int(np.flatnonzero(tree.trees.feature == LEAF)[-1])
    shorter = tree.without_splits_above(np.array([leaf]))
    assert isinstance(shorter, GrownTree)
    assert shorter.trees.n_nodes == tree.trees.n_nodes - 2
    bins = binned(WHOLE.table, NAMES, first_query().edges)
    before, after = (t.output[t.trees.leaves(bins)[:, 0]] for t in (tree, shorter))
    assert np.array_equal(after[after != 0], before[after != 0])
    assert tree.without_splits_above(np.array([1])).trees.n_nodes == 1
