"""`FeatureTable`: the rows of a site's cases. It never leaves the site; only merged sums of it do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Feature values of cases.

    Parameters
    ----------
    values : ndarray of float64, shape (n_cases, n_features)
        NaN marks a missing value; infinities are refused.
    names : tuple of str, length n_features
        Unique feature names.
    case_ids : tuple of str, length n_cases
        Unique; local to the site.
    """

    values: FloatMatrix
    names: tuple[str, ...]
    case_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.case_ids), len(self.names)):
            raise ValueError(
                f"values {self.values.shape} do not fit {len(self.case_ids)} cases x {len(self.names)} names"
            )
        if self.values.dtype != np.float64:
            raise ValueError(f"values are {self.values.dtype}, expected float64")
        if np.isinf(self.values).any():
            raise ValueError("values hold infinities; a missing value is NaN")
        for kind, items in (("feature name", self.names), ("case id", self.case_ids)):
            if len(set(items)) != len(items):
                twice = sorted({item for item in items if items.count(item) > 1})
                raise ValueError(f"{kind} given twice: {', '.join(twice[:5])}")

    @property
    def n_cases(self) -> int:
        return len(self.case_ids)

    @property
    def n_features(self) -> int:
        return len(self.names)

    @property
    def schema_digest(self) -> str:
        """SHA-256 of the ordered names: what two sites compare before any statistic is merged."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()

    def select(self, names: Sequence[str]) -> FeatureTable:
        """The given columns in the given order; KeyError where one is not in the table."""
        position = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in position]
        if missing:
            raise KeyError(f"features not in the table: {', '.join(missing[:5])}")
        return replace(self, values=self.values[:, [position[name] for name in names]], names=tuple(names))

    def rows(self, case_ids: Iterable[str]) -> FeatureTable:
        """The given cases in the given order; KeyError where one is not in the table."""
        position = {case_id: i for i, case_id in enumerate(self.case_ids)}
        wanted = tuple(case_ids)
        n_missing = sum(case_id not in position for case_id in wanted)
        if n_missing:
            raise KeyError(f"{n_missing} of {len(wanted)} cases are not in the table")
        return replace(self, values=self.values[[position[case_id] for case_id in wanted]], case_ids=wanted)

    def with_values(self, values: FloatMatrix) -> FeatureTable:
        return replace(self, values=values)

    def beside(self, other: FeatureTable) -> FeatureTable:
        """The columns of both tables for the same cases in the same order."""
        if self.case_ids != other.case_ids:
            raise ValueError("tables of different cases cannot stand side by side")
        return FeatureTable(np.hstack([self.values, other.values]), self.names + other.names, self.case_ids)
