"""XGBoost's own format of a model, JSON, for one tree: written, and read as if it came from anyone.

A tree is read into `common.statistics.trees.Trees`, whose siblings stand side by side; its thresholds are numbers of
edges plus one half. XGBoost loads and predicts with what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import MessageError
from common.statistics.columns import Indices, Matrix
from common.statistics.trees import LEAF, Trees

MAX_DEPTH = 8
LARGEST_OUTPUT = 1e3
"""Of a leaf, in units of the score: XGBoost's own are below 1 where a penalty is set."""

OBJECTIVES: Mapping[str, tuple[str, float]] = {
    "logistic": ("binary:logistic", 0.25),
    "squared": ("reg:squarederror", 1.0),
}
"""XGBoost's name of a loss, and the largest second derivative of one case."""


@dataclass(frozen=True)
class TreeLimits:
    """What a tree may be: its features, the edges of each, its depth, the loss that it was grown for."""

    n_features: int
    n_edges: int
    max_depth: int
    loss: str


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


def read_booster(content: bytes, limits: TreeLimits, *, n_trees: int) -> list[GrownTree]:
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
        written = [tree.booster(limits.n_features, limits.loss) for tree in trees]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MessageError(f"a booster cannot be read: {type(error).__name__}") from error
    if len(trees) != n_trees or (n_trees == 1 and parsed != written[0]):
        raise MessageError(
            f"a booster of {len(trees)} trees holds more or other fields than were agreed, for {n_trees}"
        )
    for tree in trees:
        try:
            tree.trees.check(limits.n_features, limits.n_edges)
        except ValueError as error:
            raise MessageError(f"a tree of a booster: {error}") from error
        if _depth(tree.trees) > limits.max_depth or np.abs(tree.output).max() > LARGEST_OUTPUT or (tree.gain < 0).any():
            raise MessageError("a tree of a booster is deeper, or its numbers are larger, than can be")
    return trees


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
