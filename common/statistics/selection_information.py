"""Mutual information with the outcome on agreed bins, and mRMR: relevant features that do not repeat one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Matrix
from common.statistics.moments import moments
from common.statistics.procedure import Procedure
from common.statistics.quantiles import balanced_edges, histogram_counts
from common.statistics.ranking import Ranking
from common.statistics.selection_filters import correlations
from common.statistics.selection_tests import analysis_of_variance

ROWS_AT_ONCE = 16


def mutual_information(names: Sequence[str], classes: Sequence[str], *, n_bins: int = 10) -> Procedure[Ranking]:
    """Mutual information (nats) of each binned feature with the outcome class, the plug-in estimate."""
    names = tuple(names)
    edges = yield from balanced_edges(names, n_bins)
    counts = yield from histogram_counts(names, edges, by="class", groups=classes)
    return Ranking.of("mutual information", names, information(counts.astype(np.float64)))


def information(counts: Matrix) -> Matrix:
    """Mutual information (nats) of tables of counts, (n_classes, n_features, n_bins) -> (n_features,)."""
    joint = counts / np.maximum(counts.sum(axis=(0, 2), keepdims=True), 1)
    expected = joint.sum(axis=0, keepdims=True) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, expected, out=np.ones_like(joint), where=joint > 0)
    nats: Matrix = np.sum(joint * np.log(ratio), axis=(0, 2))
    return np.maximum(nats, 0.0)


def mrmr(
    names: Sequence[str],
    classes: Sequence[str],
    *,
    n_selected: int,
    relevance: Literal["mutual_information", "anova"] = "mutual_information",
    combination: Literal["difference", "quotient"] = "quotient",
) -> Procedure[Ranking]:
    """Greedy minimum redundancy, maximum relevance (Ding and Peng 2005, J. Bioinform. Comput. Biol. 3(2)).

    Redundancy is the mean |Pearson correlation| with the features chosen so far, their measure for continuous features;
    its Gram rows are asked for in small blocks of the candidates that look best.

    Returns
    -------
    Ranking
        The chosen features in the order of choice. The score is the place counted from the end (``n_selected`` first).
    """
    names = tuple(names)
    if not 1 <= n_selected <= len(names):
        raise StatisticError(f"{n_selected} of {len(names)} features cannot be selected")
    if relevance == "anova":
        ranked = yield from analysis_of_variance(names, classes)
    else:
        ranked = yield from mutual_information(names, classes)
    of_name = dict(zip(ranked.names, ranked.score, strict=True))
    relevant = np.array([of_name[name] for name in names])
    learned = yield from moments(names)
    rows: dict[int, Matrix] = {}
    chosen: list[int] = []
    redundancy = np.zeros(len(names))
    while len(chosen) < n_selected:
        merit = _merit(relevant, redundancy / max(len(chosen), 1), combination, first=not chosen)
        merit[chosen] = -np.inf
        best = int(np.argmax(merit))
        chosen.append(best)
        if best not in rows and len(chosen) < n_selected:
            likely = [int(j) for j in np.argsort(-merit)[:ROWS_AT_ONCE] if j not in rows and np.isfinite(merit[j])]
            correlation = yield from correlations(learned, likely)
            rows |= dict(zip(likely, np.abs(correlation), strict=True))
        if best in rows:
            redundancy = redundancy + rows[best]
    return Ranking("mRMR", tuple(names[j] for j in chosen), np.arange(n_selected, 0, -1, dtype=np.float64), np.zeros(0))


def _merit(relevant: Matrix, redundancy: Matrix, combination: str, *, first: bool) -> Matrix:
    if first:
        return relevant.copy()
    if combination == "difference":
        return relevant - redundancy
    return relevant / np.maximum(redundancy, 1e-3)
