"""Gradient boosting by Flower's XGBoost strategy: each hospital grows a whole tree, and the trees are appended.

Bagging as `flwr.serverapp.strategy.FedXgbBagging` does it: in a round every hospital boosts the common ensemble by one
tree on its own cases with XGBoost (Chen and Guestrin 2016, KDD), and Flower's own function puts the trees side by side.
Each counts 1/n of n hospitals, which is what scaling the learning rate by n does in Flower's examples.

Unlike all other questions, the answer is no sum: it does not merge to the pooled model (`common.statistics.boosting`
does), and a tree speaks for one hospital. What is done about that at the hospital: features are seen through agreed
edges only, so that no threshold is a case's value; XGBoost chooses the splits, but the outputs of leaves are computed
from cases that move in groups (`common.statistics.case_groups`), so that a leaf stands, of each class, for no case or
at least the minimum; and of XGBoost's notes on nodes only what prediction and the ranking of features need is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt

from common.errors import MessageError, StatisticError
from common.statistics.boosting import Boosted, Loss, derivatives, start_score
from common.statistics.case_groups import SiteCases
from common.statistics.columns import Indices, Matrix, response
from common.statistics.outcome_groups import outcome_labels
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.trees import LEAF, Trees, binned, check_edges, require_edges, shares

MAX_DEPTH = 8
LARGEST_OUTPUT = 1e3
"""Of a leaf, in units of the score: XGBoost's own are below 1 where a penalty is set."""

OBJECTIVES: Mapping[str, tuple[str, float]] = {
    "logistic": ("binary:logistic", 0.25),
    "squared": ("reg:squarederror", 1.0),
}
"""XGBoost's name of a loss, and the largest second derivative of one case."""


@dataclass(frozen=True, eq=False)
class XgboostQuery:
    """The next tree of an ensemble, grown on this hospital's cases.

    Parameters
    ----------
    names, edges, loss, start, roots, feature, cut, left, outputs
        The ensemble so far, as in `common.statistics.boosting.BoostingQuery`.
    max_depth : int
    learning_rate, ridge : float
        XGBoost's ``eta`` and ``lambda``.
    group_size : int
        See `common.statistics.case_groups`.
    """

    kind: ClassVar[str] = "xgboost"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    edges: Matrix
    loss: str
    start: float
    roots: Indices
    feature: Indices
    cut: Indices
    left: Indices
    outputs: Matrix
    max_depth: int
    learning_rate: float
    ridge: float
    group_size: int

    def __post_init__(self) -> None:
        check_edges(self.names, self.edges)
        self.trees.check(len(self.names), self.edges.shape[1])
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss {self.loss!r}, expected one of {', '.join(get_args(Loss))}")
        if self.outputs.shape != self.feature.shape:
            raise ValueError("outputs and trees do not fit one another")
        if not 1 <= self.max_depth <= MAX_DEPTH or self.group_size < 1:
            raise ValueError(f"max_depth lies in 1..{MAX_DEPTH}, group_size is positive")
        if not (0 < self.learning_rate <= 1 and self.ridge >= 0):
            raise ValueError("learning_rate lies in (0, 1], ridge is not negative")

    @property
    def trees(self) -> Trees:
        return Trees(self.roots, self.feature, self.cut, self.left)

    def summarise(self, cohort: Cohort) -> Sums:
        """The tree as XGBoost's JSON, filled up with blanks to a length that does not depend on the cases."""
        tree, _ = self._grown(cohort)
        content = json.dumps(tree.booster(len(self.names), self.loss)).encode()
        return {"booster": np.frombuffer(content.ljust(self._length), dtype=np.uint8)}

    def case_counts(self, cohort: Cohort) -> Indices:
        labels, names = outcome_labels(cohort)
        _, inside = self._grown(cohort)
        return np.stack([np.bincount(labels[rows], minlength=len(names)) for rows in inside.values()])

    def check(self, answer: Sums) -> None:
        """MessageError where an answer is no tree over these features and edges, or holds anything else."""
        booster = answer.get("booster", np.zeros(0))
        if answer.keys() != {"booster"} or booster.dtype != np.uint8 or booster.shape != (self._length,):
            raise MessageError(f"a tree comes as {self._length} bytes and nothing else")
        read_booster(booster.tobytes(), self, n_trees=1)

    def merge(self, answers: Sequence[Sums]) -> Sums:
        """The hospitals' trees side by side, in the order of the answers, by Flower's own function."""
        from flwr.serverapp.strategy.strategy_utils import aggregate_bagging  # what FedXgbBagging calls

        merged = b""
        for answer in answers:
            merged = aggregate_bagging(merged, answer["booster"].tobytes())
        return {"booster": np.frombuffer(merged, dtype=np.uint8)}

    @property
    def _length(self) -> int:
        return 4096 + (384 << (self.max_depth + 1))

    def _grown(self, cohort: Cohort) -> tuple[GrownTree, dict[int, Indices]]:
        """The tree and the cases in each of its leaves. XGBoost chooses the splits; cases move in groups."""
        labels, names = outcome_labels(cohort)
        site = SiteCases.of(cohort.table, self.names, self.edges, labels, len(names), self.group_size)
        every = np.arange(len(labels))
        if not len(every):
            return GrownTree.stump(), {0: every}
        outputs = self.outputs[self.trees.leaves(binned(cohort.table, self.names, self.edges))]
        score = self.start + outputs.sum(axis=1)
        tree = self._split(site, response(cohort), score)
        inside = site.assigned(tree.trees, 0, every)
        while empty := [leaf for leaf, rows in inside.items() if not len(rows)]:
            tree = tree.without_splits_above(np.array(empty))
            inside = site.assigned(tree.trees, 0, every)
        sums = derivatives(cohort, score, self.loss)
        output = np.zeros(tree.trees.n_nodes)
        for leaf, rows in inside.items():
            _, gradient, hessian = sums[rows].sum(axis=0)
            output[leaf] = np.float32(-self.learning_rate * gradient / (hessian + self.ridge))
        return replace(tree, output=output), inside

    def _split(self, site: SiteCases, target: Matrix, score: Matrix) -> GrownTree:
        import xgboost  # here: only studies that use it load it

        objective, steepest = OBJECTIVES[self.loss]
        settings = {
            "objective": objective,
            "base_score": 0.5,  # of no effect beside base_margin
            "max_depth": self.max_depth,
            "eta": self.learning_rate,
            "lambda": self.ridge,
            "min_child_weight": steepest * self.group_size,  # so many cases at least
            "tree_method": "exact",
            "nthread": 1,
            "verbosity": 0,
        }
        data = xgboost.DMatrix(site.bins().astype(np.float32), label=target, base_margin=score.astype(np.float32))
        content = xgboost.train(settings, data, num_boost_round=1).save_raw("json")
        return GrownTree.of_xgboost(json.loads(content)["learner"]["gradient_booster"]["model"]["trees"][0])


@dataclass(frozen=True, eq=False)
class GrownTree:
    """One tree: its nodes, the output of each leaf, the gain of each split (0 elsewhere)."""

    trees: Trees
    output: Matrix
    gain: Matrix

    @classmethod
    def stump(cls) -> GrownTree:
        """A tree that adds nothing."""
        return cls(Trees.stumps(1), np.zeros(1), np.zeros(1))

    @classmethod
    def of_xgboost(cls, tree: Mapping[str, Any]) -> GrownTree:
        """From the lists of XGBoost's JSON, whose nodes are numbered anew so that siblings stand side by side.

        Raises
        ------
        MessageError
            Where the lists are no binary tree.
        """
        left, right = _numbers(tree, "left_children"), _numbers(tree, "right_children")
        feature, condition = _numbers(tree, "split_indices"), _numbers(tree, "split_conditions")
        gain = _numbers(tree, "loss_changes")
        n = len(left)
        if not n or n >= 2 ** (MAX_DEPTH + 1) or {len(right), len(feature), len(condition), len(gain)} != {n}:
            raise MessageError("the lists of a tree do not fit one another")
        order, new_left = [0], np.zeros(n, dtype=np.int64)
        for place in range(n):
            if place == len(order):
                raise MessageError("a tree has nodes that nothing leads to")
            node = order[place]
            if left[node] == LEAF and right[node] == LEAF:
                continue
            children = [int(left[node]), int(right[node])]
            if children != [left[node], right[node]] or not all(0 < child < n for child in children):
                raise MessageError("a tree points outside of its nodes")
            new_left[place] = len(order)
            order += children
            if len(order) > n:
                raise MessageError("a node of a tree has two parents")
        if len(set(order)) != n:
            raise MessageError("a node of a tree has two parents")
        is_leaf = new_left == 0
        cut = np.where(is_leaf, 0, np.ceil(condition[order]) - 1)
        trees = Trees(
            np.zeros(1, dtype=np.int64),
            np.where(is_leaf, LEAF, feature[order]).astype(np.int64),
            cut.astype(np.int64),
            new_left,
        )
        return cls(trees, np.where(is_leaf, condition[order], 0.0), np.where(is_leaf, 0.0, gain[order]))

    def without_splits_above(self, leaves: Indices) -> GrownTree:
        """The tree where the parents of these leaves are leaves themselves, of no output yet."""
        parent = np.zeros(self.trees.n_nodes, dtype=np.int64)
        inner = np.flatnonzero(self.trees.feature != LEAF)
        parent[self.trees.left[inner]] = parent[self.trees.left[inner] + 1] = inner
        undone = np.unique(parent[leaves])
        left = np.where(self.trees.feature == LEAF, LEAF, self.trees.left)
        left[undone] = LEAF
        right = np.where(left == LEAF, LEAF, left + 1)
        condition = np.where(self.trees.feature == LEAF, self.output, self.trees.cut + 0.5)
        condition[undone] = 0.0
        kept = _reached(left)
        place = np.cumsum(kept) - 1
        lists = {
            "left_children": np.where(left == LEAF, LEAF, place[left])[kept],
            "right_children": np.where(right == LEAF, LEAF, place[right])[kept],
            "split_indices": np.maximum(self.trees.feature, 0)[kept],
            "split_conditions": condition[kept],
            "loss_changes": self.gain[kept],
        }
        return GrownTree.of_xgboost({name: values.tolist() for name, values in lists.items()})

    def booster(self, n_features: int, loss: str) -> dict[str, Any]:
        """A model of this one tree as XGBoost's JSON: it can be loaded and predicts with bins."""
        n, leaf = self.trees.n_nodes, self.trees.feature == LEAF
        parents = np.full(n, 2**31 - 1)
        inner = np.flatnonzero(~leaf)
        parents[self.trees.left[inner]] = parents[self.trees.left[inner] + 1] = inner
        tree = {
            "base_weights": [0.0] * n,
            "categories": [],
            "categories_nodes": [],
            "categories_segments": [],
            "categories_sizes": [],
            "default_left": [0] * n,
            "id": 0,
            "left_children": np.where(leaf, LEAF, self.trees.left).tolist(),
            "loss_changes": [float(f"{gain:.6g}") for gain in self.gain],
            "parents": parents.tolist(),
            "right_children": np.where(leaf, LEAF, self.trees.left + 1).tolist(),
            "split_conditions": np.where(leaf, self.output, self.trees.cut + 0.5).astype(np.float32).tolist(),
            "split_indices": np.maximum(self.trees.feature, 0).tolist(),
            "split_type": [0] * n,
            "sum_hessian": [0.0] * n,
            "tree_param": {
                "num_deleted": "0",
                "num_feature": str(n_features),
                "num_nodes": str(n),
                "size_leaf_vector": "1",
            },
        }
        model = {
            "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"},
            "iteration_indptr": [0, 1],
            "tree_info": [0],
            "trees": [tree],
        }
        parameters = {
            "base_score": "[5E-1]",
            "boost_from_average": "0",
            "num_class": "0",
            "num_feature": str(n_features),
        }
        learner = {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {**parameters, "num_target": "1"},
            "objective": {"name": OBJECTIVES[loss][0], "reg_loss_param": {"scale_pos_weight": "1"}},
        }
        return {"learner": learner, "version": [3, 2, 0]}


def read_booster(content: bytes, query: XgboostQuery, *, n_trees: int) -> list[GrownTree]:
    """The trees of a booster's JSON, which may come from anyone.

    Raises
    ------
    MessageError
        Where it is not what `GrownTree.booster` writes, or a tree does not fit the features, edges or depth.
    """
    try:
        parsed = json.loads(content)
        found = parsed["learner"]["gradient_booster"]["model"]["trees"]
        trees = [GrownTree.of_xgboost(tree) for tree in found]
        written = [tree.booster(len(query.names), query.loss) for tree in trees]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"a booster cannot be read: {type(error).__name__}") from error
    if len(trees) != n_trees or (n_trees == 1 and parsed != written[0]):
        raise MessageError(
            f"a booster of {len(trees)} trees holds more or other fields than were agreed, for {n_trees}"
        )
    for tree in trees:
        try:
            tree.trees.check(len(query.names), query.edges.shape[1])
        except ValueError as error:
            raise MessageError(f"a tree of a booster: {error}") from error
        if _depth(tree.trees) > query.max_depth or np.abs(tree.output).max() > LARGEST_OUTPUT or (tree.gain < 0).any():
            raise MessageError("a tree of a booster is deeper, or its numbers are larger, than can be")
    return trees


@dataclass(frozen=True)
class XgboostSettings:
    """How an ensemble grows.

    Parameters
    ----------
    loss : {"logistic", "squared"}
    rounds : int
        In each, every hospital adds a tree.
    max_depth : int
    learning_rate, ridge : float
    group_size : int
        The study's minimum of cases.
    """

    loss: Loss = "logistic"
    rounds: int = 50
    max_depth: int = 3
    learning_rate: float = 0.1
    ridge: float = 1.0
    group_size: int = 1


def xgboost_bagging(names: Sequence[str], edges: Matrix, settings: XgboostSettings | None = None) -> Procedure[Boosted]:
    """Fit an ensemble on agreed edges (n_features, n_edges), a tree a hospital and round.

    Raises
    ------
    StatisticError
        Where edges do not fit, values are missing, or the outcome does not vary.
    """
    names, settings = tuple(names), settings or XgboostSettings()
    edges = require_edges(edges, names)
    trees, outputs, gains = Trees.stumps(0), np.zeros(0), np.zeros(len(names))
    start = yield from start_score(names, settings.loss)
    for _ in range(settings.rounds):
        query = XgboostQuery(
            names=names,
            edges=edges,
            loss=settings.loss,
            start=start,
            roots=trees.roots,
            feature=trees.feature,
            cut=trees.cut,
            left=trees.left,
            outputs=outputs,
            max_depth=settings.max_depth,
            learning_rate=settings.learning_rate,
            ridge=settings.ridge,
            group_size=settings.group_size,
        )
        merged = (yield query)["booster"].tobytes()
        n_trees = int(json.loads(merged)["learner"]["gradient_booster"]["model"]["gbtree_model_param"]["num_trees"])
        grown = read_booster(merged, query, n_trees=n_trees)
        for tree in grown:
            trees = trees.then(tree.trees)
            outputs = np.concatenate([outputs, tree.output / n_trees])
            inner = tree.trees.feature != LEAF
            np.add.at(gains, tree.trees.feature[inner], tree.gain[inner])
        if all(tree.trees.n_nodes == 1 for tree in grown):
            break
    if not np.isfinite(outputs).all():
        raise StatisticError("the ensemble has outputs that are not finite")
    return Boosted(
        names=names,
        edges=edges,
        roots=trees.roots,
        feature=trees.feature,
        cut=trees.cut,
        left=trees.left,
        outputs=outputs[:, None],
        importance=shares(gains),
        start=start,
        loss=settings.loss,
    )


def _numbers(tree: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    values = np.asarray(tree[name])
    if values.ndim != 1 or values.dtype.kind not in "if" or not np.isfinite(values).all():
        raise MessageError(f"{name} of a tree is no list of finite numbers")
    return values


def _reached(left: Indices) -> npt.NDArray[np.bool_]:
    """Which nodes are still below the root; children stand behind their parents."""
    reached = np.zeros(len(left), dtype=bool)
    reached[0] = True
    for node in range(len(left)):
        if reached[node] and left[node] != LEAF:
            reached[[left[node], left[node] + 1]] = True
    return reached


def _depth(trees: Trees) -> int:
    depth = np.zeros(trees.n_nodes, dtype=np.int64)
    for node in np.flatnonzero(trees.feature != LEAF):
        depth[[trees.left[node], trees.left[node] + 1]] = depth[node] + 1
    return int(depth.max())
