"""Stability selection: how often a feature is selected when cases are drawn anew, with the bound on false selections.

Meinshausen and Bühlmann 2010, "Stability selection", JRSS B 72(4). Each site draws among its own cases, from words that
depend on study seed, draw and case id alone; so the frequencies are the same for any split of the cohort into sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Indices, Matrix, case_words, class_labels, complete_columns, response
from common.statistics.coordinate_descent import minimise
from common.statistics.linear_sums import LinearSumsQuery
from common.statistics.moments import grouped_moments
from common.statistics.outcome_groups import outcome_labels
from common.statistics.procedure import Cohort, Procedure, Sums

Drawing = Literal["half", "bootstrap"]
"""Half of the cases (each is in by a coin), or a Poisson bootstrap (each is in a Poisson(1) number of times)."""

DRAWS_AT_ONCE = 10
MOST_FEATURES = 500
"""Candidates of `stable_lasso`: its Gram matrices travel whole, one a draw; filter or rank before."""

PATH = np.geomspace(1.0, 1e-3, 60)
MAX_DRAWS = 1_000

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 12)]))


def drawn_weights(cohort: Cohort, drawing: str, first_draw: int, n_draws: int) -> Matrix:
    """How often each case is in each draw, (n_cases, n_draws)."""
    draws = np.arange(first_draw + 1, first_draw + 1 + n_draws, dtype=np.uint64)
    word = case_words(cohort, "draw")[:, None] + draws[None, :] * _GOLDEN  # SplitMix64, Steele et al. 2014
    word = (word ^ (word >> np.uint64(30))) * _MIX[0]
    word = (word ^ (word >> np.uint64(27))) * _MIX[1]
    uniform = ((word ^ (word >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    if drawing == "half":
        return np.asarray(uniform < 0.5, dtype=np.float64)
    return np.asarray(np.searchsorted(_POISSON, uniform, side="right"), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _DrawQuery:
    names: tuple[str, ...]
    drawing: str
    first_draw: int
    n_draws: int

    def __post_init__(self) -> None:
        if self.drawing not in get_args(Drawing):
            raise ValueError(f"drawing {self.drawing!r}, expected one of {', '.join(get_args(Drawing))}")
        if not (1 <= self.n_draws <= DRAWS_AT_ONCE and 0 <= self.first_draw <= MAX_DRAWS):
            raise ValueError(f"1..{DRAWS_AT_ONCE} draws a question, got {self.n_draws} from {self.first_draw}")

    def _weights(self, cohort: Cohort) -> Matrix:
        return drawn_weights(cohort, self.drawing, self.first_draw, self.n_draws)

    def case_counts(self, cohort: Cohort) -> Indices:
        """Drawn and not drawn cases of each outcome label."""
        drawn = self._weights(cohort) > 0
        labels, names = outcome_labels(cohort)
        groups = [drawn[labels == k] for k in range(len(names))]
        return np.stack([part for group in groups for part in (group.sum(axis=0), (~group).sum(axis=0))]).astype(
            np.int64
        )


@dataclass(frozen=True, eq=False)
class DrawnClassSumsQuery(_DrawQuery):
    """Weighted cases, sums and sums of squares of each draw and class, about given centres (n_features,)."""

    kind: ClassVar[str] = "drawn_class_sums"
    cumulative: ClassVar[tuple[str, ...]] = ()
    classes: tuple[str, ...]
    centres: Matrix

    def summarise(self, cohort: Cohort) -> Sums:
        labels, classes = class_labels(cohort)
        if classes != self.classes:
            raise StatisticError(f"classes {classes} at this site, the study agreed on {self.classes}")
        values, weights = complete_columns(cohort.table, self.names) - self.centres, self._weights(cohort)
        parts = [weights * (labels == k)[:, None] for k in range(len(classes))]
        return {
            "cases": np.stack([part.sum(axis=0) for part in parts]),
            "sums": np.stack([part.T @ values for part in parts]),
            "squares": np.stack([part.T @ values**2 for part in parts]),
        }


@dataclass(frozen=True, eq=False)
class DrawnGramQuery(_DrawQuery):
    """Weighted sums and products of features and response of each draw, about given centres."""

    kind: ClassVar[str] = "drawn_gram"
    cumulative: ClassVar[tuple[str, ...]] = ()
    centres: Matrix
    response_centre: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centres.shape != (len(self.names),) or len(self.names) > MOST_FEATURES:
            raise ValueError(f"centres {self.centres.shape} for {len(self.names)} features, at most {MOST_FEATURES}")

    def summarise(self, cohort: Cohort) -> Sums:
        values = complete_columns(cohort.table, self.names) - self.centres
        both = np.column_stack([np.ones(len(values)), values, response(cohort) - self.response_centre])
        upper = np.triu_indices(both.shape[1])
        weights = self._weights(cohort)
        return {"triangles": np.stack([((both * weights[:, [d]]).T @ both)[upper] for d in range(self.n_draws)])}


@dataclass(frozen=True, eq=False)
class Stability:
    """Selection frequencies.

    Parameters
    ----------
    method : str
    names : tuple of str, length n_features
    frequency : ndarray of float64, shape (n_features,)
        Share of the draws in which the feature was selected.
    n_draws, n_selected : int
        Draws, and features selected in each.
    """

    method: str
    names: tuple[str, ...]
    frequency: Matrix
    n_draws: int
    n_selected: int

    def stable(self, threshold: float) -> tuple[str, ...]:
        """Features selected in at least this share of the draws, most frequent first."""
        order = np.argsort(-self.frequency, kind="stable")
        return tuple(self.names[j] for j in order if self.frequency[j] >= threshold)

    def expected_false(self, threshold: float) -> float:
        """Upper bound on the expected number of falsely stable features (their Theorem 1, for drawing by halves)."""
        if not 0.5 < threshold <= 1:
            raise StatisticError(f"the bound holds for thresholds in (0.5, 1], got {threshold}")
        return self.n_selected**2 / ((2 * threshold - 1) * len(self.names))


def stable_ranking(
    names: Sequence[str], classes: Sequence[str], *, n_selected: int, n_draws: int = 100, drawing: Drawing = "half"
) -> Procedure[Stability]:
    """How often a feature is among the ``n_selected`` largest |Welch t| between two classes."""
    names, classes = tuple(names), tuple(classes)
    _check(names, n_selected, n_draws)
    if len(classes) != 2:
        raise StatisticError(f"Welch's test compares two classes, got {len(classes)}")
    groups = yield from grouped_moments(names, by="class", groups=classes)
    n = np.array([group.present for group in groups])
    centres = (n * np.array([group.mean for group in groups])).sum(axis=0) / np.maximum(n.sum(axis=0), 1)
    chosen = np.zeros(len(names))
    for first in range(0, n_draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, n_draws - first)
        sums = yield DrawnClassSumsQuery(names, drawing, first, count, classes, centres)
        cases = sums["cases"][:, :, None]
        if (cases < 2).any():
            raise StatisticError(
                f"a draw left fewer than 2 cases of a class: {cases.min():.0f}; too few cases to resample"
            )
        means = sums["sums"] / cases
        variance = np.maximum(sums["squares"] / cases - means**2, 0.0) * cases / (cases - 1)
        spread = np.sqrt((variance / cases).sum(axis=0))
        t = np.divide(np.abs(means[1] - means[0]), spread, out=np.zeros_like(spread), where=spread > 0)
        for row in t:
            chosen[np.argsort(-row, kind="stable")[:n_selected]] += 1
    return Stability(f"Welch t, {drawing}", names, chosen / n_draws, n_draws, n_selected)


def stable_lasso(
    names: Sequence[str], *, n_selected: int, n_draws: int = 50, drawing: Drawing = "half"
) -> Procedure[Stability]:
    """How often a feature is among the first ``n_selected`` to enter the LASSO path (features scaled in each draw).

    The response is a scalar outcome, or 0 and 1 of two classes.
    """
    names = tuple(names)
    _check(names, n_selected, n_draws)
    if len(names) > MOST_FEATURES:
        raise StatisticError(f"stability of the LASSO takes at most {MOST_FEATURES} candidates, got {len(names)}")
    sums = yield LinearSumsQuery(names, 1, np.zeros(len(names)), 0.0)
    n = float(sums["cases"][0])
    centres, response_centre = sums["features"][0] / n, float(sums["response"][0] / n)
    chosen = np.zeros(len(names))
    for first in range(0, n_draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, n_draws - first)
        sums = yield DrawnGramQuery(names, drawing, first, count, centres, response_centre)
        for triangle in sums["triangles"]:
            chosen[_first_to_enter(triangle, len(names), n_selected)] += 1
    return Stability(f"LASSO, {drawing}", names, chosen / n_draws, n_draws, n_selected)


def _check(names: tuple[str, ...], n_selected: int, n_draws: int) -> None:
    if not 1 <= n_selected <= len(names) or not 1 <= n_draws <= MAX_DRAWS:
        raise StatisticError(f"{n_selected} of {len(names)} features in {n_draws} draws cannot be selected")


def _first_to_enter(triangle: Matrix, p: int, n_selected: int) -> Indices:
    """Positions of the features that enter the path first, from one draw's products of (1, features, response)."""
    products = np.zeros((p + 2, p + 2))
    products[np.triu_indices(p + 2)] = triangle
    products = products + np.triu(products, 1).T
    n, sums = products[0, 0], products[0, 1:]
    centred = products[1:, 1:] / n - np.outer(sums, sums) / n**2
    spread = np.sqrt(np.maximum(np.diag(centred)[:p], 0.0))
    scale = np.where(spread > 0, spread, np.inf)
    gram, linear = centred[:p, :p] / np.outer(scale, scale), centred[:p, p] / scale
    largest = float(np.abs(linear).max())
    w, entered = np.zeros(p), np.zeros(0, dtype=np.int64)
    for share in PATH:
        w = minimise(gram, linear, l1=np.full(p, share * largest), l2=np.zeros(p), start=w, tolerance=1e-6)
        new = np.setdiff1d(np.flatnonzero(w), entered)
        entered = np.concatenate([entered, new[np.argsort(-np.abs(w[new]), kind="stable")]])
        if len(entered) >= n_selected:
            break
    return entered[:n_selected]
