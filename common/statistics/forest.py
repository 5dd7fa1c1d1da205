"""Random forest grown from merged class counts: on agreed bins it is the forest of the pooled rows.

All trees grow together, a level a question. Sites send class counts up to each cut of a few drawn features a node;
the coordinator takes the cut with the largest fall of Gini impurity (Breiman 2001, Mach. Learn. 45:5). The Poisson
bootstrap draws case by case, so it does not depend on how cases are split into sites. Trees may also be dealt to the
sites, each grown from one site's cases (``batches``): what exchanging local forests gives, by the same sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.errors import StatisticError
from common.rng import generator
from common.statistics.case_groups import SiteCases
from common.statistics.columns import Indices, Matrix, class_labels
from common.statistics.procedure import Cohort, Procedure, Sums
from common.statistics.stability import drawn_weights
from common.statistics.trees import (
    TreeModel,
    Trees,
    best_cuts,
    check_edges,
    require_edges,
    shares,
)
from common.tables import FeatureTable

MAX_TREES = 1_000


@dataclass(frozen=True, eq=False)
class ForestQuery:
    """Weighted class counts up to each edge of some features, for some leaves of growing trees.

    Parameters
    ----------
    names, edges
        Features and their agreed edges (n_features, n_edges).
    classes : tuple of str
    roots, feature, cut, left : ndarray of int64
        See `common.statistics.trees.Trees`.
    leaves, of_tree : ndarray of int64, shape (n_leaves,)
        Nodes that are asked for, and the tree that each stands in.
    columns : ndarray of int64, shape (n_leaves, n_columns)
        Features looked at in each leaf.
    bootstrap : bool
    batches : tuple of str
        The batch (a site, say) whose cases alone each tree sees; empty where every tree sees all cases.
    group_size : int
        See `common.statistics.case_groups`.
    """

    kind: ClassVar[str] = "forest"
    cumulative: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    edges: Matrix
    classes: tuple[str, ...]
    roots: Indices
    feature: Indices
    cut: Indices
    left: Indices
    leaves: Indices
    of_tree: Indices
    columns: Indices
    bootstrap: bool
    batches: tuple[str, ...]
    group_size: int

    def __post_init__(self) -> None:
        check_edges(self.names, self.edges)
        self._trees.check(len(self.names), self.edges.shape[1])
        n_leaves = len(self.leaves)
        if len(self.roots) > MAX_TREES or self.of_tree.shape != (n_leaves,) or self.leaves.ndim != 1 or not n_leaves:
            raise ValueError(f"at most {MAX_TREES} trees, and a tree for each leaf")
        if self.columns.ndim != 2 or len(self.columns) != n_leaves:
            raise ValueError(f"columns {self.columns.shape} do not fit {n_leaves} leaves")
        for array, end in ((self.columns, len(self.names)), (self.of_tree, len(self.roots)), (self.leaves, self._n)):
            if ((array < 0) | (array >= end)).any():
                raise ValueError("a leaf, tree or feature is asked for that is not there")
        if self.group_size < 1 or len(self.batches) not in (0, len(self.roots)):
            raise ValueError("group_size is positive, and batches name one for each tree or none")

    @property
    def _trees(self) -> Trees:
        return Trees(self.roots, self.feature, self.cut, self.left)

    @property
    def _n(self) -> int:
        return len(self.feature)

    def summarise(self, cohort: Cohort) -> Sums:
        labels, _ = self._labels(cohort)
        site, member = self._site(cohort), labels[:, None] == np.arange(len(self.classes))
        counts = np.zeros((*self.columns.shape, self.edges.shape[1] + 1, len(self.classes)))
        for i, rows, weights in self._rows_of_leaves(cohort, site):
            counts[i] = site.sums(rows, self.columns[i], weights[:, None] * member[rows])
        return {"counts": counts.astype(np.int64)}

    def case_counts(self, cohort: Cohort) -> Indices:
        site = self._site(cohort)
        counts = np.zeros((*self.columns.shape, self.edges.shape[1] + 1, len(self.classes)), dtype=np.int64)
        for i, rows, _ in self._rows_of_leaves(cohort, site):
            counts[i] = site.group_counts(rows, self.columns[i])
        if not self.batches:
            return counts
        # trees of the other batches, taken from a tree of all cases, stand for a batch that no tree was dealt to
        _, sizes = np.unique(np.array(cohort.batch), return_counts=True)
        return np.concatenate([counts.ravel(), sizes.astype(np.int64)])

    def _labels(self, cohort: Cohort) -> tuple[Indices, tuple[str, ...]]:
        labels, classes = class_labels(cohort)
        if classes != self.classes:
            raise StatisticError(f"classes {classes} at this site, the study agreed on {self.classes}")
        return labels, classes

    def _site(self, cohort: Cohort) -> SiteCases:
        labels, classes = self._labels(cohort)
        return SiteCases.of(cohort.table, self.names, self.edges, labels, len(classes), self.group_size)

    def _rows_of_leaves(self, cohort: Cohort, site: SiteCases) -> list[tuple[int, Indices, Matrix]]:
        """Position, rows and weights of each leaf that is asked for."""
        n_cases, n_trees = cohort.table.n_cases, len(self.roots)
        weights = drawn_weights(cohort, "bootstrap", 0, n_trees) if self.bootstrap else np.ones((n_cases, n_trees))
        found: list[tuple[int, Indices, Matrix]] = []
        for tree in np.unique(self.of_tree).tolist():
            seen = np.array([not self.batches or name == self.batches[tree] for name in cohort.batch], dtype=bool)
            rows = site.kept(np.flatnonzero(seen & (weights[:, tree] > 0)))
            inside = site.assigned(self._trees, tree, rows)
            for i in np.flatnonzero(self.of_tree == tree).tolist():
                here = inside.get(int(self.leaves[i]), rows[:0])
                found.append((i, here, weights[here, tree]))
        return found


@dataclass(frozen=True)
class ForestSettings:
    """How a forest grows.

    Parameters
    ----------
    n_trees, max_depth : int
    n_columns : int, optional
        Features looked at in each node; the rounded square root of their number where it is not given.
    least_cases : int
        (Drawn) cases on either side of a cut, over all sites.
    bootstrap : bool
    batches : tuple of str
        Where given, trees are dealt to these batches in turn and each sees the cases of its batch alone: the forest of
        the sites' own forests. Empty, the usual, grows every tree from all cases.
    group_size : int
        The study's minimum of cases; see `common.statistics.case_groups`.
    seed : int
        Of the features drawn in each node.
    """

    n_trees: int = 100
    max_depth: int = 5
    n_columns: int | None = None
    least_cases: int = 5
    bootstrap: bool = True
    batches: tuple[str, ...] = ()
    group_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_trees, self.max_depth, self.least_cases, self.group_size) < 1 or self.n_trees > MAX_TREES:
            raise ValueError(f"1..{MAX_TREES} trees; depth, least cases and group size must be positive")

    @property
    def dealt_batches(self) -> tuple[str, ...]:
        """The batch of each tree, or none."""
        return tuple(self.batches[i % len(self.batches)] for i in range(self.n_trees)) if self.batches else ()


@dataclass(frozen=True, eq=False)
class Forest(TreeModel):
    """A fitted forest; a leaf's outputs are its class shares (n_classes,)."""

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs.shape[1] != len(self.classes) or not len(self.roots):
            raise ValueError(f"outputs {self.outputs.shape} do not fit {len(self.classes)} classes")

    def predict(self, table: FeatureTable) -> Matrix:
        """Probabilities (n_cases, n_classes): the mean over the trees."""
        return self.total(table) / len(self.roots)


def forest(
    names: Sequence[str], classes: Sequence[str], edges: Matrix, settings: ForestSettings | None = None
) -> Procedure[Forest]:
    """Grow a forest on agreed edges (n_features, n_edges), for example `common.statistics.quantiles.balanced_edges`.

    Raises
    ------
    StatisticError
        Where edges do not fit, values are missing, a class is absent, or classes differ between study and site.
    """
    names, classes, settings = tuple(names), tuple(classes), settings or ForestSettings()
    edges = require_edges(edges, names)
    n_columns = min(settings.n_columns or max(round(len(names) ** 0.5), 1), len(names))
    trees, importance = Trees.stumps(settings.n_trees), np.zeros(len(names))
    outputs = np.zeros((settings.n_trees, len(classes)))
    leaves = of_tree = np.arange(settings.n_trees)
    for _ in range(settings.max_depth):
        columns = _drawn_columns(settings, leaves, len(names), n_columns)
        sums = yield ForestQuery(
            names=names,
            edges=edges,
            classes=classes,
            roots=trees.roots,
            feature=trees.feature,
            cut=trees.cut,
            left=trees.left,
            leaves=leaves,
            of_tree=of_tree,
            columns=columns,
            bootstrap=settings.bootstrap,
            batches=settings.dealt_batches,
            group_size=settings.group_size,
        )
        counts = sums["counts"].astype(np.float64)
        if trees.n_nodes == settings.n_trees:
            outputs = _class_shares(counts[:, 0, -1], classes)
        gains, allowed = _gini_gains(counts, settings.least_cases)
        best = best_cuts(gains, allowed)
        cut = np.flatnonzero(best.gain > 1e-12)
        if not cut.size:
            break
        feature = columns[cut, best.column[cut]]
        np.add.at(importance, feature, best.gain[cut])
        left = counts[cut, best.column[cut], best.edge[cut]]
        children = np.stack([left, counts[cut, 0, -1] - left], axis=1).reshape(-1, len(classes))
        first_new = trees.n_nodes
        trees = trees.with_cuts(leaves[cut], feature, best.edge[cut])
        outputs = np.concatenate([outputs, children / children.sum(axis=1, keepdims=True)])
        open_ones = (children > 0).sum(axis=1) > 1
        leaves = first_new + np.flatnonzero(open_ones)
        of_tree = np.repeat(of_tree[cut], 2)[open_ones]
        if not leaves.size:
            break
    return Forest(names, edges, trees.roots, trees.feature, trees.cut, trees.left, outputs, shares(importance), classes)


def _drawn_columns(settings: ForestSettings, leaves: Indices, n_features: int, n_columns: int) -> Indices:
    if n_columns == n_features:
        return np.tile(np.arange(n_features), (len(leaves), 1))
    return np.stack(
        [
            np.sort(generator(settings.seed, "forest", int(leaf)).choice(n_features, n_columns, replace=False))
            for leaf in leaves
        ]
    )


def _class_shares(counts: Matrix, classes: tuple[str, ...]) -> Matrix:
    total = counts.sum(axis=1, keepdims=True)
    if (total == 0).any() or (counts.sum(axis=0) == 0).any():
        absent = [name for name, n in zip(classes, counts.sum(axis=0), strict=True) if n == 0]
        raise StatisticError(f"no case to grow trees from: absent classes {', '.join(absent) or 'none'}")
    found: Matrix = counts / total
    return found


def _gini_gains(counts: Matrix, least_cases: int) -> tuple[Matrix, np.ndarray]:
    """Fall of impurity times cases at each cut, and where both sides hold enough; (n_leaves, n_columns, n_edges)."""
    left, total = counts[:, :, :-1], counts[:, :, -1:]
    right = total - left
    n_left, n_right, n = left.sum(axis=3), right.sum(axis=3), total.sum(axis=3)
    allowed = (n_left >= least_cases) & (n_right >= least_cases)
    gains = (
        (left**2).sum(axis=3) / np.maximum(n_left, 1)
        + (right**2).sum(axis=3) / np.maximum(n_right, 1)
        - (total**2).sum(axis=3) / np.maximum(n, 1)
    )
    return gains, allowed
