"""Gradient boosting from merged histograms of gradients: on agreed bins it is the pooled ensemble.

Second-order boosting (Friedman 2001, Ann. Stat. 29:1189; Chen and Guestrin 2016, KDD, equations 5 to 7). A tree grows a
level a question: sites send, up to each cut, the cases and the sums of first and second derivatives of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np
import scipy

from common.errors import StatisticError
from common.outcomes import ClassOutcome
from common.statistics.case_groups import SiteCases
from common.statistics.columns import Indices, Matrix, response
from common.statistics.linear_sums import LinearSumsQuery
from common.statistics.outcome_groups import outcome_labels
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.scores import bounded_scores
from common.statistics.trees import (
    TreeModel,
    Trees,
    best_cuts,
    binned,
    check_edges,
    require_edges,
    shares,
)
from common.tables import FeatureTable

Loss = Literal["logistic", "squared"]


@dataclass(frozen=True, eq=False)
class BoostingQuery:
    """Cases and sums of the loss's derivatives up to each edge, for some leaves of the tree that grows.

    Parameters
    ----------
    names, edges
        Features and their agreed edges (n_features, n_edges).
    loss : {"logistic", "squared"}
    start : float
        Score before the first tree.
    roots, feature, cut, left : ndarray of int64
        See `common.statistics.trees.Trees`; the last tree is the one that grows.
    outputs : ndarray of float64, shape (n_nodes,)
        What each leaf of the finished trees adds to the score.
    leaves : ndarray of int64, shape (n_leaves,)
    group_size : int
        See `common.statistics.case_groups`.
    """

    kind: ClassVar[str] = "boosting"
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
    leaves: Indices
    group_size: int

    def __post_init__(self) -> None:
        check_edges(self.names, self.edges)
        self._trees.check(len(self.names), self.edges.shape[1])
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss {self.loss!r}, expected one of {', '.join(get_args(Loss))}")
        if self.outputs.shape != self.feature.shape or not len(self.roots) or not len(self.leaves):
            raise ValueError("outputs, trees and leaves do not fit one another")
        if ((self.leaves < 0) | (self.leaves >= len(self.feature))).any() or self.group_size < 1:
            raise ValueError("a leaf is asked for that is not there, or group_size is not positive")

    @property
    def _trees(self) -> Trees:
        return Trees(self.roots, self.feature, self.cut, self.left)

    def summarise(self, cohort: Cohort) -> Sums:
        site = self._site(cohort)
        bins = binned(cohort.table, self.names, self.edges)
        finished = Trees(self.roots[:-1], self.feature, self.cut, self.left).leaves(bins)
        score = self.start + self.outputs[finished].sum(axis=1)
        if self.loss == "logistic":
            score = bounded_scores(score, advice="the classes are separated; stop earlier or shrink more")
        sums = derivatives(cohort, score, self.loss)
        every = np.arange(len(self.names))
        found = [site.sums(rows, every, sums[rows]) for rows in self._rows_of_leaves(site)]
        return {"sums": np.stack(found)}

    def case_counts(self, cohort: Cohort) -> Indices:
        site, every = self._site(cohort), np.arange(len(self.names))
        return np.stack([site.group_counts(rows, every) for rows in self._rows_of_leaves(site)])

    def _site(self, cohort: Cohort) -> SiteCases:
        labels, names = outcome_labels(cohort)
        return SiteCases.of(cohort.table, self.names, self.edges, labels, len(names), self.group_size)

    def _rows_of_leaves(self, site: SiteCases) -> list[Indices]:
        inside = site.assigned(self._trees, len(self.roots) - 1, np.arange(len(site.values)))
        none = np.zeros(0, dtype=np.int64)
        return [inside.get(int(leaf), none) for leaf in self.leaves]


def derivatives(cohort: Cohort, score: Matrix, loss: str) -> Matrix:
    """One, gradient and second derivative of each case's loss, (n_cases, 3)."""
    target = response(cohort)
    if loss == "squared":
        return np.column_stack([np.ones(len(target)), score - target, np.ones(len(target))])
    if not isinstance(cohort.outcome, ClassOutcome):
        raise StatisticError("logistic boosting needs two classes")
    p = scipy.special.expit(score)
    return np.column_stack([np.ones(len(target)), p - target, p * (1 - p)])


@dataclass(frozen=True)
class BoostingSettings:
    """How an ensemble grows.

    Parameters
    ----------
    loss : {"logistic", "squared"}
        For two classes, or for a scalar outcome.
    n_trees, max_depth : int
    learning_rate : float
    ridge : float
        Added to the sum of second derivatives of a leaf (lambda of Chen and Guestrin).
    least_cases : int
        Cases on either side of a cut, over all sites.
    group_size : int
        The study's minimum of cases; see `common.statistics.case_groups`.
    """

    loss: Loss = "logistic"
    n_trees: int = 100
    max_depth: int = 3
    learning_rate: float = 0.1
    ridge: float = 1.0
    least_cases: int = 10
    group_size: int = 1

    def __post_init__(self) -> None:
        if min(self.n_trees, self.max_depth, self.least_cases, self.group_size) < 1:
            raise ValueError("numbers of trees, depth, least cases and group size must be positive")
        if not (0 < self.learning_rate <= 1 and self.ridge >= 0):
            raise ValueError("learning_rate lies in (0, 1], ridge is not negative")


@dataclass(frozen=True, eq=False)
class Boosted(TreeModel):
    """A fitted ensemble; the score of a case is ``start`` plus its leaves' outputs (one each)."""

    start: float
    loss: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs.shape[1] != 1 or self.loss not in get_args(Loss):
            raise ValueError(f"outputs {self.outputs.shape} or loss {self.loss!r} do not fit")

    def predict(self, table: FeatureTable) -> Matrix:
        """Probabilities (n_cases, 2), or predicted values (n_cases, 1)."""
        score = self.start + self.total(table)[:, 0]
        if self.loss == "squared":
            return score[:, None]
        return np.column_stack([scipy.special.expit(-score), scipy.special.expit(score)])


def boosting(names: Sequence[str], edges: Matrix, settings: BoostingSettings | None = None) -> Procedure[Boosted]:
    """Fit an ensemble on agreed edges (n_features, n_edges).

    Raises
    ------
    StatisticError
        Where edges do not fit, values are missing, the outcome does not vary, or scores grow without limit.
    """
    names, settings = tuple(names), settings or BoostingSettings()
    edges = require_edges(edges, names)
    start = yield from start_score(names, settings.loss)
    trees, outputs, importance = Trees.stumps(0), np.zeros(0), np.zeros(len(names))
    for _ in range(settings.n_trees):
        grown = yield from _grow(names, edges, settings, start, trees, outputs)
        if grown.trees.n_nodes == 1:
            break
        trees = trees.then(grown.trees)
        outputs = np.concatenate([outputs, grown.outputs])
        importance = importance + grown.importance
    return Boosted(
        names=names,
        edges=edges,
        roots=trees.roots,
        feature=trees.feature,
        cut=trees.cut,
        left=trees.left,
        outputs=outputs[:, None],
        importance=shares(importance),
        start=start,
        loss=settings.loss,
    )


def start_score(names: tuple[str, ...], loss: str) -> Procedure[float]:
    """The best constant score."""
    sums = yield LinearSumsQuery(names[:1], 1, np.zeros(1), 0.0)
    n, total = float(sums["cases"].sum()), float(sums["response"].sum())
    if loss == "squared":
        return total / n
    if not 0 < total < n:
        raise StatisticError(f"logistic boosting needs both classes: {total:g} events of {n:g} cases")
    return math.log(total / (n - total))


@dataclass(frozen=True, eq=False)
class _Grown:
    trees: Trees
    outputs: Matrix
    importance: Matrix


def _grow(
    names: tuple[str, ...], edges: Matrix, settings: BoostingSettings, start: float, before: Trees, outputs: Matrix
) -> Procedure[_Grown]:
    """One tree after those before; its outputs are shrunk by the learning rate."""
    tree, leaf_outputs, importance = Trees.stumps(1), np.zeros(1), np.zeros(len(names))
    leaves: Indices = np.zeros(1, dtype=np.int64)
    for _ in range(settings.max_depth):
        query = _query(names, edges, settings, start, before.then(tree), np.concatenate([outputs, 0 * leaf_outputs]))
        sums = (yield replace(query, leaves=leaves + before.n_nodes))["sums"]
        left, total = sums[:, :, :-1], sums[:, :, -1:]
        right = total - left
        gains = sum(_score(part, settings.ridge) for part in (left, right)) - _score(total, settings.ridge)
        allowed = (left[..., 0] >= settings.least_cases) & (right[..., 0] >= settings.least_cases)
        best = best_cuts(np.asarray(gains), allowed)
        cut = np.flatnonzero(best.gain > 1e-12)
        if not cut.size:
            break
        np.add.at(importance, best.column[cut], best.gain[cut])
        of_left = left[cut, best.column[cut], best.edge[cut]]
        children = np.stack([of_left, total[cut, 0, 0] - of_left], axis=1).reshape(-1, 3)
        first_new = tree.n_nodes
        tree = tree.with_cuts(leaves[cut], best.column[cut], best.edge[cut])
        steps = -settings.learning_rate * children[:, 1] / (children[:, 2] + settings.ridge)
        leaf_outputs = np.concatenate([leaf_outputs, steps])
        leaves = np.arange(first_new, tree.n_nodes)
    return _Grown(tree, leaf_outputs, importance)


def _query(
    names: tuple[str, ...], edges: Matrix, settings: BoostingSettings, start: float, trees: Trees, outputs: Matrix
) -> BoostingQuery:
    return BoostingQuery(
        names=names,
        edges=edges,
        loss=settings.loss,
        start=start,
        roots=trees.roots,
        feature=trees.feature,
        cut=trees.cut,
        left=trees.left,
        outputs=outputs,
        leaves=trees.roots[-1:],
        group_size=settings.group_size,
    )


def _score(sums: Matrix, ridge: float) -> Matrix:
    """G^2 / (H + ridge) of sums (..., 3)."""
    return np.asarray(sums[..., 1] ** 2 / np.maximum(sums[..., 2] + ridge, 1e-300))
