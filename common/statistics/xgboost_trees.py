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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import numpy as np

from common.errors import MessageError, StatisticError
from common.statistics.boosting import Boosted, Loss, derivatives, start_score
from common.statistics.case_groups import SiteCases
from common.statistics.columns import Indices, Matrix, response
from common.statistics.outcome_groups import outcome_labels
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.trees import LEAF, Trees, binned, check_edges, require_edges, shares
from common.statistics.xgboost_booster import MAX_DEPTH, OBJECTIVES, GrownTree, TreeLimits, read_booster


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

    @property
    def limits(self) -> TreeLimits:
        """Of the tree that answers."""
        return TreeLimits(len(self.names), self.edges.shape[1], self.max_depth, self.loss)

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
        read_booster(booster.tobytes(), self.limits, n_trees=1)

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
        grown = read_booster(merged, query.limits, n_trees=n_trees)
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
