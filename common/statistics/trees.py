"""Decision trees on agreed bins: their arrays, how a site assigns its cases to nodes, and sums up to each cut.

A feature is seen only through agreed edges: a cut at edge j sends ``value <= edge j`` to the left. Sums over the cases
up to each cut are all that growing a tree needs, they merge by addition, and so the merged tree is the pooled one.

Small cells: with ``group_size`` above 1 a site moves its cases in *groups*. Within a node the cases are ordered by the
feature and cut into groups that hold, of each outcome class, no case or at least ``group_size``; a cut that would fall
into a group is taken at the group's nearer end, in what is sent and in where the cases go. So no sum, no difference of
sums up to two cuts and no node ever stands for a small number of a site's cases of a class. With 1 all is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, complete_columns
from common.tables import FeatureTable

LEAF = -1
MAX_NODES = 1_000_000


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees in flat arrays; nodes of all trees are numbered together.

    Parameters
    ----------
    roots : ndarray of int64, shape (n_trees,)
    feature : ndarray of int64, shape (n_nodes,)
        Position of the feature that a node is cut at; `LEAF` where it is not.
    cut : ndarray of int64, shape (n_nodes,)
        Position of the edge.
    left : ndarray of int64, shape (n_nodes,)
        The left child; the right one follows it.
    """

    roots: Indices
    feature: Indices
    cut: Indices
    left: Indices

    @classmethod
    def stumps(cls, n_trees: int) -> Trees:
        """Trees of one leaf each."""
        zeros = np.zeros(n_trees, dtype=np.int64)
        return cls(np.arange(n_trees), np.full(n_trees, LEAF), zeros, zeros)

    @property
    def n_nodes(self) -> int:
        return len(self.feature)

    def with_cuts(self, nodes: Indices, feature: Indices, cut: Indices) -> Trees:
        """The same trees where each of ``nodes`` is cut and has two new leaves."""
        new_leaves, zeros = np.full(2 * len(nodes), LEAF), np.zeros(2 * len(nodes), dtype=np.int64)
        features, cuts, left = self.feature.copy(), self.cut.copy(), self.left.copy()
        features[nodes], cuts[nodes], left[nodes] = feature, cut, self.n_nodes + 2 * np.arange(len(nodes))
        return Trees(
            self.roots,
            np.concatenate([features, new_leaves]),
            np.concatenate([cuts, zeros]),
            np.concatenate([left, zeros]),
        )

    def then(self, others: Trees) -> Trees:
        """These trees and after them the others."""
        offset = self.n_nodes
        return Trees(
            np.concatenate([self.roots, others.roots + offset]),
            np.concatenate([self.feature, others.feature]),
            np.concatenate([self.cut, others.cut]),
            np.concatenate([self.left, others.left + offset]),
        )

    def leaves(self, bins: Indices) -> Indices:
        """The leaf (n_cases, n_trees) that each case with these bins (n_cases, n_features) ends in."""
        node = np.tile(self.roots, (len(bins), 1))
        rows = np.arange(len(bins))[:, None]
        while (inner := self.feature[node] != LEAF).any():
            right = bins[rows, np.maximum(self.feature[node], 0)] > self.cut[node]
            node = np.where(inner, self.left[node] + right, node)
        return node

    def check(self, n_features: int, n_edges: int) -> None:
        """ValueError where these arrays are no trees over so many features and edges: they arrive from the wire."""
        n = self.n_nodes
        arrays = (self.roots, self.feature, self.cut, self.left)
        if any(array.ndim != 1 for array in arrays) or not len(self.cut) == len(self.left) == n <= MAX_NODES:
            raise ValueError("the arrays of trees do not fit one another")
        inner = np.flatnonzero(self.feature != LEAF)
        inside = ((self.roots >= 0) & (self.roots < n)).all()
        inside &= ((self.feature[inner] >= 0) & (self.feature[inner] < n_features)).all()
        inside &= ((self.cut[inner] >= 0) & (self.cut[inner] < n_edges)).all()
        # children come after their parents, so no walk is endless
        inside &= ((self.left[inner] > inner) & (self.left[inner] + 1 < n)).all()
        if not inside:
            raise ValueError("a tree points outside of its features, edges or nodes")


@dataclass(frozen=True, eq=False)
class TreeModel:
    """Fitted trees with a vector of outputs a leaf.

    Parameters
    ----------
    names : tuple of str
    edges : ndarray of float64, shape (n_features, n_edges)
    roots, feature, cut, left : ndarray of int64
        See `Trees`.
    outputs : ndarray of float64, shape (n_nodes, n_outputs)
    importance : ndarray of float64, shape (n_features,)
        Share of each feature in the criterion's total gain; sums to 1, or to 0 without any cut.
    """

    names: tuple[str, ...]
    edges: Matrix
    roots: Indices
    feature: Indices
    cut: Indices
    left: Indices
    outputs: Matrix
    importance: Matrix

    def __post_init__(self) -> None:
        check_edges(self.names, self.edges)
        self.trees.check(len(self.names), self.edges.shape[1])
        if self.outputs.ndim != 2 or len(self.outputs) != self.trees.n_nodes:
            raise ValueError(f"outputs {self.outputs.shape} do not fit {self.trees.n_nodes} nodes")
        if self.importance.shape != (len(self.names),):
            raise ValueError(f"importance {self.importance.shape} does not fit {len(self.names)} features")

    @property
    def trees(self) -> Trees:
        return Trees(self.roots, self.feature, self.cut, self.left)

    def total(self, table: FeatureTable) -> Matrix:
        """Sum over the trees of each case's outputs, (n_cases, n_outputs)."""
        leaves = self.trees.leaves(binned(table, self.names, self.edges))
        return np.asarray(self.outputs[leaves].sum(axis=1))


def binned(table: FeatureTable, names: Sequence[str], edges: Matrix) -> Indices:
    """Number of edges below each value, (n_cases, n_features): bin j holds ``edge j-1 < value <= edge j``."""
    values = complete_columns(table, names)
    bins = np.empty(values.shape, dtype=np.int64)
    for j in range(values.shape[1]):
        bins[:, j] = np.searchsorted(edges[j], values[:, j], side="left")
    return bins


def check_edges(names: tuple[str, ...], edges: Matrix) -> None:
    """ValueError where the edges do not fit the features or do not rise."""
    if edges.ndim != 2 or len(edges) != len(names) or not edges.shape[1]:
        raise ValueError(f"edges {edges.shape} do not fit {len(names)} features")
    if (np.diff(edges, axis=1) < 0).any():
        raise ValueError("edges must not decrease")


@dataclass(frozen=True, eq=False)
class SiteBins:
    """A site's binned cases, their outcome labels, and the size of the groups that they move in.

    Parameters
    ----------
    bins : ndarray of int64, shape (n_cases, n_features)
    labels : ndarray of int64, shape (n_cases,)
    n_labels, n_edges, group_size : int
    """

    bins: Indices
    labels: Indices
    n_labels: int
    n_edges: int
    group_size: int

    def kept(self, rows: Indices) -> Indices:
        """``rows``, or none of them where they (or the cases left out) are a small number of some class."""
        counts = np.bincount(self.labels[rows], minlength=self.n_labels)
        rest = np.bincount(self.labels, minlength=self.n_labels) - counts
        small = [((n > 0) & (n < self.group_size)).any() for n in (counts, rest)]
        return rows[:0] if any(small) else rows

    def assigned(self, trees: Trees, tree: int, rows: Indices) -> dict[int, Indices]:
        """The rows in each leaf of one growing tree, when cases move in groups."""
        waiting, leaves = [(int(trees.roots[tree]), rows)], {}
        while waiting:
            node, here = waiting.pop()
            if trees.feature[node] == LEAF:
                leaves[node] = here
                continue
            column = self.bins[here, trees.feature[node]]
            ends = self.group_ends(here, trees.feature[node : node + 1])[0]
            goes_left = column <= ends[trees.cut[node]]
            child = int(trees.left[node])
            waiting += [(child, here[goes_left]), (child + 1, here[~goes_left])]
        return leaves

    def group_ends(self, rows: Indices, columns: Indices) -> Indices:
        """Where a cut at each edge is taken, (n_columns, n_edges): an edge, -1 for before all cases, or ``n_edges``."""
        edge = np.arange(self.n_edges)
        if self.group_size <= 1 or not len(rows):
            return np.tile(edge, (len(columns), 1))
        counts = self.sums(rows, columns, (self.labels[rows][:, None] == np.arange(self.n_labels)).astype(np.float64))
        total = counts[:, -1]
        last = np.zeros((len(columns), self.n_labels))
        is_end = np.zeros((len(columns), self.n_edges), dtype=bool)
        for j in range(self.n_edges):
            new, rest = counts[:, j] - last, total - counts[:, j]
            fine = (((new == 0) | (new >= self.group_size)) & ((rest == 0) | (rest >= self.group_size))).all(axis=1)
            is_end[:, j] = fine & new.any(axis=1)
            last = np.where(is_end[:, j, None], counts[:, j], last)
        return _nearest_end(is_end, counts.sum(axis=2))

    def sums(self, rows: Indices, columns: Indices, weights: Matrix) -> Matrix:
        """Sums of ``weights`` (n_rows, n_sums) over the rows up to each edge, all rows last:

        (n_columns, n_edges + 1, n_sums).
        """
        n_bins = self.n_edges + 1
        place = (self.bins[np.ix_(rows, columns)] + n_bins * np.arange(len(columns))).ravel()
        parts = [
            np.bincount(place, np.repeat(weights[:, s], len(columns)), minlength=n_bins * len(columns))
            for s in range(weights.shape[1])
        ]
        return np.stack(parts, axis=1).reshape(len(columns), n_bins, -1).cumsum(axis=1)

    def grouped_sums(self, rows: Indices, columns: Indices, weights: Matrix) -> Matrix:
        """As `sums`, with each cut taken at the end of a group."""
        exact = self.sums(rows, columns, weights)
        ends = self.group_ends(rows, columns)
        before = np.zeros_like(exact[:, :1])
        padded = np.concatenate([before, exact], axis=1)
        taken = np.take_along_axis(padded, (ends + 1)[:, :, None], axis=1)
        return np.concatenate([taken, exact[:, -1:]], axis=1)

    def group_counts(self, rows: Indices, columns: Indices) -> Indices:
        """Cases of each label between the cuts that are sent, (n_columns, n_edges + 1, n_labels)."""
        member = (self.labels[rows][:, None] == np.arange(self.n_labels)).astype(np.float64)
        sent = self.grouped_sums(rows, columns, member)
        return np.diff(sent, axis=1, prepend=0).astype(np.int64)


def _nearest_end(is_end: npt.NDArray[np.bool_], counts: Matrix) -> Indices:
    """For each edge the group end (or -1, or n_edges) that fewest cases lie between."""
    n_columns, n_edges = is_end.shape
    edge = np.arange(n_edges)
    before = np.maximum.accumulate(np.where(is_end, edge, -1), axis=1)
    after = np.minimum.accumulate(np.where(is_end, edge, n_edges)[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([np.zeros((n_columns, 1)), counts], axis=1)
    here = counts[:, :-1]
    down = here - np.take_along_axis(padded, before + 1, axis=1)
    up = np.take_along_axis(padded, after + 1, axis=1) - here
    return np.where(down <= up, before, after)


@dataclass(frozen=True, eq=False)
class BestCuts:
    """The best cut of each node: gain (0 where none is allowed), position among its columns, edge; all (n_nodes,)."""

    gain: Matrix
    column: Indices
    edge: Indices


def best_cuts(gains: Matrix, allowed: npt.NDArray[np.bool_]) -> BestCuts:
    """From gains (n_nodes, n_columns, n_edges); of equal gains the first feature and lowest edge is taken."""
    n_nodes, _, n_edges = gains.shape
    flat = np.where(allowed, gains, -np.inf).reshape(n_nodes, -1)
    place = flat.argmax(axis=1)
    best = flat[np.arange(n_nodes), place]
    return BestCuts(np.where(np.isfinite(best), best, 0.0), place // n_edges, place % n_edges)


def shares(importance: Matrix) -> Matrix:
    """Gains as shares of their sum."""
    total = importance.sum()
    return importance / total if total > 0 else importance


def require_edges(edges: Matrix, names: tuple[str, ...]) -> Matrix:
    """The edges as float64; StatisticError where they do not fit."""
    try:
        check_edges(names, edges)
    except ValueError as wrong:
        raise StatisticError(str(wrong)) from wrong
    return edges.astype(np.float64)
