"""Sums of which one case can change no more than is known: the part of a private answer that is not the noise.

Noise hides a case where it is measured against the most that one case can do. Each query that has a private version
states that here, next to how its sums are brought to one scale:

    the L2 norm of `BoundedSums.scaled` changes by at most 1 when one case is taken out,

whatever the case, as long as values lie within the `Limits`, to which they are clipped here. The noise is added to the
scaled vector (`client.private_release`), and `BoundedSums.answer` reads it back as what the query returns.

The number of a hospital's cases and the hospital itself as a batch are public; everything else about a case, its class
and which values are missing too, is not. Every other query is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import PrivacyError
from common.statistics.bounds import Limits
from common.statistics.columns import Matrix, group_rows
from common.statistics.leakage import BatchOutcomeQuery
from common.statistics.linear_sums import GramRowsQuery
from common.statistics.moments import MomentQuery
from common.statistics.procedure import Cohort, Query, Sums
from common.statistics.quantiles import CountQuery

Arrays = Mapping[str, Matrix]

LARGEST_WIDTH = 1e120
"""Sums of squares of numbers below it are finite."""


@dataclass(frozen=True, eq=False)
class BoundedSums:
    """A query's sums over clipped cases, and the scale of each number.

    Parameters
    ----------
    sums, scales : mapping of name to ndarray of float64, equal shapes
        A scale of 0 marks a number that does not depend on any case: it needs no noise.
    read : callable
        From (noisy) sums in this form to the arrays that the query returns.
    """

    sums: Arrays
    scales: Arrays
    read: Callable[[Arrays], Sums]

    def scaled(self) -> Matrix:
        """Every number that depends on a case, over its scale, shape (n_numbers,)."""
        parts = [self.sums[name][scale > 0] / scale[scale > 0] for name, scale in self.scales.items()]
        return np.concatenate(parts) if parts else np.zeros(0)

    def answer(self, scaled: Matrix) -> Sums:
        """What leaves, from the noisy `scaled`."""
        noisy: dict[str, Matrix] = {}
        start = 0
        for name, scale in self.scales.items():
            stop = start + int((scale > 0).sum())
            noisy[name] = self.sums[name].copy()
            noisy[name][scale > 0] = scaled[start:stop] * scale[scale > 0]
            start = stop
        return self.read(noisy)


def bounded_sums(query: Query, cohort: Cohort, limits: Limits) -> BoundedSums:
    """A query's sums with their sensitivity.

    Raises
    ------
    PrivacyError
        Where the query has no private version, with the reason; where a column has no range.
    """
    if type(query) not in _BOUNDED:
        raise PrivacyError(f"question {query.kind} has no private version: {reason_without(type(query))}")
    clipped = replace(cohort, table=limits.clip(cohort.table))
    return _BOUNDED[type(query)](query, clipped, limits)


def reason_without(query: type[Any]) -> str:
    """Why a kind of query has no private version."""
    return REFUSED.get(query.kind, "it is not among those whose sensitivity is known")


def _moments(query: MomentQuery, cohort: Cohort, limits: Limits) -> BoundedSums:
    low, high = limits.of(query.names)
    width = _width(low, high, query.centres)
    sums = {name: np.asarray(array, dtype=np.float64) for name, array in query.summarise(cohort).items()}
    possible = _possible_groups(query.by, query.groups, cohort)
    sizes_known = query.by != "class"
    noisy = [] if sizes_known else ["cases"]
    noisy += [] if limits.complete else ["present"]
    noisy += [name for name in ("power_1", "power_2") if name in sums]
    share = np.sqrt(len(noisy) * max(len(query.names), 1))
    full = {
        "cases": np.full(len(query.groups), np.sqrt(len(noisy))),
        "present": np.full(width.shape, share),
        "power_1": share * width,
        "power_2": share * width**2,
    }
    scales = {name: full[name] * possible.reshape((-1,) + (1,) * (full[name].ndim - 1)) for name in noisy}
    kept = {name: sums[name] for name in noisy}
    cases = sums["cases"]

    def read(found: Arrays) -> Sums:
        n = np.maximum(np.rint(found.get("cases", cases)), 0).astype(np.int64)
        everyone = np.broadcast_to(n[:, None], width.shape)
        present = np.clip(np.rint(found["present"]), 0, everyone) if "present" in found else everyone
        answer: dict[str, npt.NDArray[Any]] = {"cases": n, "present": present.astype(np.int64)}
        answer["power_1"] = found["power_1"]
        if "power_2" in found:
            answer["power_2"] = np.maximum(found["power_2"], 0.0)
        return answer

    return BoundedSums(kept, scales, read)


def _counts(query: CountQuery, cohort: Cohort, limits: Limits) -> BoundedSums:
    """A case is in one bin of each feature; noise goes to the bins, and counts up to an edge are their sums."""
    bins = np.diff(query.summarise(cohort)["counts"], axis=2, prepend=0).astype(np.float64)
    possible = _possible_groups(query.by, query.groups, cohort)
    scale = np.sqrt(max(len(query.names), 1)) * np.broadcast_to(possible[:, None, None], bins.shape)
    return BoundedSums(
        {"bins": bins},
        {"bins": scale},
        lambda found: {"counts": np.cumsum(np.rint(found["bins"]), axis=2).astype(np.int64)},
    )


def _gram_rows(query: GramRowsQuery, cohort: Cohort, limits: Limits) -> BoundedSums:
    if query.n_folds != 1:
        raise PrivacyError("products by fold of a cross-validation have no private version: ask without folds")
    if not limits.complete:
        raise PrivacyError("products of features have a private version after an imputer only")
    low, high = limits.of(query.names)
    width = _width(low, high, query.centres)
    gram = np.asarray(query.summarise(cohort)["gram"], dtype=np.float64)
    rows = np.array(query.rows, dtype=np.int64)
    place = {feature: i for i, feature in enumerate(query.rows)}
    # a product of two wanted features stands in both rows, and is asked once
    twice = [(i, j) for i, f in enumerate(query.rows) for j in range(len(query.names)) if j in place and j < f]
    scale = np.outer(width[rows], width)
    for i, j in twice:
        scale[i, j] = 0.0
    scale = scale * np.sqrt(max(scale.size - len(twice), 1))

    def read(found: Arrays) -> Sums:
        whole = found["gram"].copy()
        for i, j in twice:
            whole[0, i, j] = whole[0, place[j], query.rows[i]]
        return {"gram": whole}

    for i, j in twice:
        gram[0, i, j] = 0.0
    return BoundedSums({"gram": gram}, {"gram": scale[None]}, read)


def _batch_outcome(query: BatchOutcomeQuery, cohort: Cohort, limits: Limits) -> BoundedSums:
    cells = np.diff(query.summarise(cohort)["counts"], axis=1, prepend=0).astype(np.float64)
    possible = _possible_groups("batch", query.batches, cohort)
    scale = np.broadcast_to(possible[:, None], cells.shape).astype(np.float64)
    return BoundedSums(
        {"cells": cells},
        {"cells": scale},
        lambda found: {"counts": np.cumsum(np.maximum(np.rint(found["cells"]), 0), axis=1).astype(np.int64)},
    )


def _width(low: Matrix, high: Matrix, centres: Matrix) -> Matrix:
    """The farthest that a value can lie from its centre; PrivacyError where the square of that is no number."""
    width = np.maximum(np.maximum(high - centres, centres - low), 0.0)
    if not (width < LARGEST_WIDTH).all():
        raise PrivacyError(f"a centre lies more than {LARGEST_WIDTH:g} from the values")
    return width


def _possible_groups(by: str, groups: tuple[str, ...], cohort: Cohort) -> Matrix:
    """1 for each group that a case of this hospital can be in, else 0, shape (n_groups,): its own batch, any class."""
    rows = group_rows(cohort, by, groups)
    if by != "batch":
        return np.ones(len(groups))
    return np.isin(np.arange(len(groups)), rows).astype(np.float64)


_BOUNDED: Mapping[type[Any], Callable[[Any, Cohort, Limits], BoundedSums]] = {
    MomentQuery: _moments,
    CountQuery: _counts,
    GramRowsQuery: _gram_rows,
    BatchOutcomeQuery: _batch_outcome,
}

_ITERATED = "it is asked again in every iteration of a solver, each time with noise, and does not converge then"

REFUSED: Mapping[str, str] = {
    "combat_totals": "private ComBat is fitted from the moments of each batch, without covariates",
    "combat_cross": "private ComBat is fitted from the moments of each batch, without covariates",
    "combat_residuals": "private ComBat is fitted from the moments of each batch, without covariates",
    "covariate_outcome": "private ComBat has no covariates, so nothing is compared with the outcome",
    "linear_sums": "normal equations with noise have no bounded solution; train a linear model with noise instead",
    "logistic": _ITERATED,
    "covariance": "noise of all products hides the small components; take features instead of components",
    "covariance_product": _ITERATED,
    "fold_batch": "the recognition of batches is a picture for the report and not worth its cost",
    "recognition": "the recognition of batches is a picture for the report and not worth its cost",
    "drawn_class_sums": "a hundred draws cost a hundred answers",
    "drawn_gram": "a hundred draws cost a hundred answers",
    "cox_strata": "risk sets couple cases: one case changes the terms of all before it",
    "cox_bins": "risk sets couple cases: one case changes the terms of all before it",
    "forest": "every level of every tree is a question, and its counts are too small for noise",
    "boosting": "every level of every tree is a question, and its counts are too small for noise",
    "xgboost": "a tree is no sum, and one case can change all of it",
    "margins": _ITERATED,
    "discrete_hazards": _ITERATED,
}
"""Why a query has no private version, by its kind."""
