"""What a selection hands on: features in order of a score, the score's name, and p-values where the score has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.statistics.columns import Matrix


@dataclass(frozen=True, eq=False)
class Ranking:
    """Features, best first.

    Parameters
    ----------
    method : str
        How they were ranked, for the report.
    names : tuple of str, length n_features
    score : ndarray of float64, shape (n_features,)
        Decreasing.
    p_value : ndarray of float64, shape (n_features,) or (0,)
        Not adjusted for multiplicity; empty where the method has none.
    """

    method: str
    names: tuple[str, ...]
    score: Matrix
    p_value: Matrix

    @classmethod
    def of(cls, method: str, names: Sequence[str], score: Matrix, p_value: Matrix | None = None) -> Ranking:
        """Sort by score; equal scores keep the order of ``names``."""
        order = np.argsort(-score, kind="stable")
        return cls(
            method,
            tuple(names[j] for j in order),
            score[order],
            np.zeros(0) if p_value is None else p_value[order],
        )

    def top(self, k: int) -> tuple[str, ...]:
        return self.names[:k]

    def false_discovery_rate(self) -> Matrix:
        """Adjusted p-values of Benjamini and Hochberg 1995, in the order of ``names``."""
        order = np.argsort(self.p_value)
        n = len(order)
        stepped = self.p_value[order] * n / np.arange(1, n + 1)
        adjusted = np.empty(n)
        adjusted[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
        return adjusted
