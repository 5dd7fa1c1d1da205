"""A site's evaluation sums by subgroup: sex, age band, scanner, whatever column of the manifest the study names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.config.study import SubgroupConfig
from common.evaluation.fairness import age_bands, subgroup_arrays, subgroup_sums

OTHER = "other or not known"


def sums_by_level(
    config: SubgroupConfig,
    cells: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int64],
    *,
    minimum_cases: int,
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Arrays named ``column/level/field``, under the small-cell rule (`common.evaluation.fairness`).

    Parameters
    ----------
    cells : sequence of str, length n_cases
        The column's text; empty where not known.
    probabilities : ndarray, shape (n_cases, n_classes)
    labels : ndarray of int64, shape (n_cases,)
    """
    level, names = levels(config, cells)
    return subgroup_arrays(
        config.column, subgroup_sums(probabilities, labels, level, names, minimum_cases=minimum_cases)
    )


def levels(config: SubgroupConfig, cells: Sequence[str]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Position of each case's level (n_cases,), and the levels' names."""
    if config.edges:
        return age_bands(np.array([_number(cell) for cell in cells], dtype=np.float64), config.edges)
    position = {value: i for i, value in enumerate(config.values)}
    found = np.array([position.get(cell, len(position)) for cell in cells], dtype=np.int64)
    return found, (*config.values, OTHER)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
