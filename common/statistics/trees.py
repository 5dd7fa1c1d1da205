"""Decision trees on agreed bins: their arrays, how a site assigns its cases to nodes, and sums up to each cut.

A feature is seen only through agreed edges: a cut at edge j sends ``value <= edge j`` to the left. Sums over the cases
up to each cut are all that growing a tree needs, they merge by addition, and so the merged tree is the pooled one.
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
TIE = 1e-9
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
class BestCuts:
    """The best cut of each node: gain (0 where none is allowed), position among its columns, edge; all (n_nodes,)."""

    gain: Matrix
    column: Indices
    edge: Indices


def best_cuts(gains: Matrix, allowed: npt.NDArray[np.bool_]) -> BestCuts:
    """From gains (n_nodes, n_columns, n_edges); of equal gains the first feature and lowest edge is taken.

    Gains are equal where they differ by `TIE` of the best: two features that part the cases alike have one gain, and
    rounding, which depends on how the cases are split into sites, must not choose between them.
    """
    n_nodes, _, n_edges = gains.shape
    flat = np.where(allowed, gains, -np.inf).reshape(n_nodes, -1)
    highest = flat.max(axis=1, keepdims=True)
    place = (flat >= highest - TIE * np.abs(np.where(np.isfinite(highest), highest, 0.0))).argmax(axis=1)
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
