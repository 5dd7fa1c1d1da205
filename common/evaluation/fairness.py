"""Does a model serve all patients alike: measures by subgroup (sex, age band, scanner), under the small-cell rule.

A site sends score sums by level of an attribute. It sends no level in which a class has few cases, and it withholds
further levels until those withheld, taken together, are not few either: the overall sums leave too, and subtracting the
shown levels from them gives the withheld ones away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.metrics import classification_summary, macro_auc
from common.evaluation.scores import ScoreSums
from common.evaluation.uncertainty import Estimate, difference

Counts = npt.NDArray[np.int64]


def age_bands(years: npt.NDArray[np.float64], edges: Sequence[float]) -> tuple[Counts, tuple[str, ...]]:
    """Band of each age (n_cases,) and the bands' names; the last band holds missing ages (NaN)."""
    ends = list(edges)
    if not ends or sorted(set(ends)) != ends:
        raise ValueError(f"edges of age bands must rise, got {ends}")
    names = [f"below {ends[0]:g}", *(f"{a:g} to below {b:g}" for a, b in pairwise(ends))]
    names += [f"{ends[-1]:g} and above", "not known"]
    band = np.searchsorted(np.array(ends), years, side="right")
    return np.where(np.isnan(years), len(names) - 1, band).astype(np.int64), tuple(names)


def shown_levels(counts: Counts, *, minimum_cases: int) -> npt.NDArray[np.bool_]:
    """Which levels may leave.

    Parameters
    ----------
    counts : ndarray of int64, shape (n_levels, n_classes)
        One site's cases.

    Returns
    -------
    ndarray of bool, shape (n_levels,)
        In each shown level, and in all withheld ones together, each class has no case or at least ``minimum_cases``.
    """
    small = (counts > 0) & (counts < minimum_cases)
    shown: npt.NDArray[np.bool_] = np.asarray(~small.any(axis=1))
    while not shown.all():
        withheld = counts[~shown].sum(axis=0)
        if not ((withheld > 0) & (withheld < minimum_cases)).any() or not shown.any():
            break
        filled = np.where(shown & (counts.sum(axis=1) > 0), counts.sum(axis=1), np.iinfo(np.int64).max)
        if filled.min() == np.iinfo(np.int64).max:
            break
        shown[filled.argmin()] = False
    return shown


def subgroup_sums(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    level: Counts,
    names: Sequence[str],
    *,
    minimum_cases: int = 1,
) -> dict[str, ScoreSums]:
    """Score sums of one site by level of one attribute; a withheld level is sent as empty.

    Parameters
    ----------
    probabilities : ndarray, shape (n_cases, n_classes)
    labels : ndarray of int, shape (n_cases,)
    level : ndarray of int64, shape (n_cases,)
        Position in ``names``; a missing value is a level of its own.
    names : sequence of str
        The study's levels, equal at all sites.
    """
    n_classes = probabilities.shape[1]
    counts = np.zeros((len(names), n_classes), dtype=np.int64)
    np.add.at(counts, (level, labels), 1)
    shown = shown_levels(counts, minimum_cases=minimum_cases)
    return {
        name: ScoreSums.summarise(probabilities[level == i], labels[level == i], minimum_cases=minimum_cases)
        if shown[i] and counts[i].any()
        else ScoreSums.empty(n_classes)
        for i, name in enumerate(names)
    }


def subgroup_arrays(attribute: str, sums: Mapping[str, ScoreSums]) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays named ``attribute/level/field``, for the wire beside the overall sums; ``attribute`` holds no slash."""
    return {
        f"{attribute}/{level}/{field}": array
        for level, part in sums.items()
        for field, array in part.to_arrays().items()
    }


def read_subgroups(arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, dict[str, ScoreSums]]:
    """Sums by attribute and level from `subgroup_arrays`; MessageError where they are not as agreed."""
    parts: dict[str, dict[str, dict[str, npt.NDArray[np.generic]]]] = {}
    for key, array in arrays.items():
        attribute, _, rest = key.partition("/")
        level, _, field = rest.rpartition("/")
        parts.setdefault(attribute, {}).setdefault(level, {})[field] = array
    return {
        attribute: {level: ScoreSums.from_arrays(fields) for level, fields in levels.items()}
        for attribute, levels in parts.items()
    }


@dataclass(frozen=True)
class SubgroupRow:
    """One row of the report's table.

    Parameters
    ----------
    level : str
    n_cases, n_positive : int
        Of the merged cases that could be shown; ``n_positive`` counts the last class.
    measures : mapping of str to Estimate
        As `classification_summary`; those undefined for the subgroup are absent.
    against_rest : Estimate or None
        AUC of the subgroup less that of all other levels together; None where either is undefined.
    """

    level: str
    n_cases: int
    n_positive: int
    measures: Mapping[str, Estimate]
    against_rest: Estimate | None


def subgroup_table(
    merged: Mapping[str, ScoreSums], *, threshold: float = 0.5, confidence: float = 0.95
) -> tuple[SubgroupRow, ...]:
    """The rows of one attribute from the merged sums of its levels; levels without a shown case are left out."""
    rows = []
    for level, sums in merged.items():
        if not sums.n_cases:
            continue
        others = [other for name, other in merged.items() if name != level and other.n_cases]
        measures = classification_summary(sums, threshold=threshold, confidence=confidence)
        n_positive = int(sums.confusion[-1].sum())
        rows.append(SubgroupRow(level, sums.n_cases, n_positive, measures, _against(sums, others, confidence)))
    return tuple(rows)


def _against(sums: ScoreSums, others: Sequence[ScoreSums], confidence: float) -> Estimate | None:
    if not others:
        return None
    try:
        rest = macro_auc(ScoreSums.merge(others), confidence=confidence)
        return difference(macro_auc(sums, confidence=confidence), rest, method="AUC intervals, squared and added")
    except MetricError:
        return None
