"""A site's cases as growing trees see them: which node each is in, and sums up to each cut.

Small cells: with ``group_size`` above 1 a site moves its cases in *groups*. Within a node the cases are ordered by the
feature's values and divided into groups that hold, of each outcome class, no case or at least ``group_size``; a cut
that would fall into a group is taken at the group's nearer end, in what is sent and in where the cases go. Groups do
not depend on the edges: whatever cuts of a feature are asked for, sums up to them differ by whole groups, and no node
ever stands for a small number of a site's cases of a class. With 1 all is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.statistics.columns import Indices, Matrix, complete_columns
from common.statistics.trees import LEAF, Trees
from common.tables import FeatureTable


@dataclass(frozen=True, eq=False)
class SiteCases:
    """A site's cases as trees see them, their outcome labels, and the size of the groups that they move in.

    Parameters
    ----------
    values : ndarray of float64, shape (n_cases, n_features)
    edges : ndarray of float64, shape (n_features, n_edges)
    labels : ndarray of int64, shape (n_cases,)
    n_labels, group_size : int
    """

    values: Matrix
    edges: Matrix
    labels: Indices
    n_labels: int
    group_size: int

    @classmethod
    def of(
        cls, table: FeatureTable, names: Sequence[str], edges: Matrix, labels: Indices, n_labels: int, group_size: int
    ) -> SiteCases:
        return cls(complete_columns(table, names), edges, labels, n_labels, group_size)

    def kept(self, rows: Indices) -> Indices:
        """``rows``, or none of them where they (or the cases left out) are a small number of some class."""
        counts = np.bincount(self.labels[rows], minlength=self.n_labels)
        rest = np.bincount(self.labels, minlength=self.n_labels) - counts
        small = [((n > 0) & (n < self.group_size)).any() for n in (counts, rest)]
        return rows[:0] if any(small) else rows

    def assigned(self, trees: Trees, tree: int, rows: Indices) -> dict[int, Indices]:
        """The rows in each leaf of one growing tree, when cases move in groups."""
        waiting: list[tuple[int, Indices]] = [(int(trees.roots[tree]), rows)]
        leaves: dict[int, Indices] = {}
        while waiting:
            node, here = waiting.pop()
            if trees.feature[node] == LEAF:
                leaves[node] = here
                continue
            order, positions = self._cuts(here, trees.feature[node : node + 1])
            ordered, position = here[order[0]], positions[0, trees.cut[node]]
            child = int(trees.left[node])
            waiting += [(child, ordered[:position]), (child + 1, ordered[position:])]
        return leaves

    def bins(self) -> Indices:
        """Edges below each case, (n_cases, n_features), when cases move in groups."""
        every = np.arange(len(self.values))
        order, positions = self._cuts(every, np.arange(len(self.edges)))
        bins = np.empty((len(self.edges), len(every)), dtype=np.int64)
        below = np.stack([np.searchsorted(ends, every, side="right") for ends in positions])
        np.put_along_axis(bins, order, below, axis=1)
        return bins.T

    def sums(self, rows: Indices, columns: Indices, weights: Matrix) -> Matrix:
        """Sums of ``weights`` (n_rows, n_sums) over the rows up to each cut, and over all of them last.

        Returns
        -------
        ndarray, shape (n_columns, n_edges + 1, n_sums)
        """
        order, positions = self._cuts(rows, columns)
        running = np.zeros((len(columns), len(rows) + 1, weights.shape[1]))
        np.cumsum(weights[order], axis=1, out=running[:, 1:])
        ends = np.concatenate([positions, np.full((len(columns), 1), len(rows))], axis=1)
        return np.take_along_axis(running, ends[:, :, None], axis=1)

    def group_counts(self, rows: Indices, columns: Indices) -> Indices:
        """Cases of each label between the cuts that are sent, (n_columns, n_edges + 1, n_labels)."""
        member = (self.labels[rows][:, None] == np.arange(self.n_labels)).astype(np.float64)
        return np.diff(self.sums(rows, columns, member), axis=1, prepend=0).astype(np.int64)

    def _cuts(self, rows: Indices, columns: Indices) -> tuple[Indices, Indices]:
        """Order of the rows by each feature (n_columns, n_rows), and how many lie before each cut (.., n_edges)."""
        values = self.values[np.ix_(rows, columns)].T
        order = np.argsort(values, axis=1, kind="stable")
        ordered = np.take_along_axis(values, order, axis=1)
        positions = np.empty((len(columns), self.edges.shape[1]), dtype=np.int64)
        for i, column in enumerate(columns):
            positions[i] = np.searchsorted(ordered[i], self.edges[column], side="right")
        if self.group_size > 1 and len(rows):
            from common.statistics.group_ends import at_group_ends

            positions = at_group_ends(ordered, self.labels[rows][order], positions, self.n_labels, self.group_size)
        return order, positions
