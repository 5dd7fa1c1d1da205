"""Errors of predicted numbers: MAE, RMSE, bias, R2 and the calibration slope, from merged moments.

All are exact. The interval of R2 is the delta method's, from fourth moments that merge like the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from common.arrays import merge_sums
from common.errors import Code, GateError, MessageError, MetricError
from common.evaluation.uncertainty import Estimate, mean_interval, normal_quantile

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorSums:
    """Mergeable sums of predictions p against observed y, with e = p - y.

    Parameters
    ----------
    errors : ndarray of float64, shape (4,)
        Cases, and the sums of e, abs(e), e^2.
    moments : ndarray of float64, shape (3, 5)
        Entry (a, b): sum of e^(2a) (y - centre)^b where 2a + b <= 4, else 0.
    products : ndarray of float64, shape (3,)
        Sums of p', p'^2 and p'y', both less the centre.
    """

    errors: Matrix
    moments: Matrix
    products: Matrix

    def __post_init__(self) -> None:
        for name, shape in (("errors", (4,)), ("moments", (3, 5)), ("products", (3,))):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected finite float64 {shape}")

    @property
    def n_cases(self) -> int:
        return round(float(self.errors[0]))

    @classmethod
    def summarise(
        cls, predicted: npt.NDArray[np.floating], observed: Matrix, *, centre: float = 0.0, minimum_cases: int = 1
    ) -> ErrorSums:
        """Sums of one site's cases.

        Parameters
        ----------
        predicted, observed : ndarray, shape (n_cases,)
        centre : float
            Agreed by all sites; near the outcome's mean it keeps the digits of the higher moments.
        minimum_cases : int
            The site's small-cell minimum.

        Raises
        ------
        MetricError
            Where shapes differ or a prediction is not finite.
        GateError
            Code ``small_cell``, for 1 to ``minimum_cases`` - 1 cases.
        """
        if predicted.shape != observed.shape or not np.isfinite(predicted).all():
            raise MetricError(f"predictions {predicted.shape} must be finite and fit the outcome {observed.shape}")
        if 0 < len(observed) < minimum_cases:
            raise GateError(f"{len(observed)} cases, the minimum here is {minimum_cases}", code=Code.SMALL_CELL)
        e = predicted.astype(np.float64) - observed
        y, p = observed - centre, predicted.astype(np.float64) - centre
        moments = [[(e ** (2 * a) @ y**b) if 2 * a + b <= 4 else 0.0 for b in range(5)] for a in range(3)]
        return cls(
            np.array([len(e), e.sum(), np.abs(e).sum(), e @ e], dtype=np.float64),
            np.array(moments, dtype=np.float64),
            np.array([p.sum(), p @ p, p @ y], dtype=np.float64),
        )

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ErrorSums:
        """The sums that arrived as ``arrays``; MessageError where they are not as agreed."""
        names = {field.name for field in fields(cls)}
        if arrays.keys() != names:
            raise MessageError(f"error sums with fields {sorted(arrays)}, expected {sorted(names)}")
        try:
            return cls(**arrays)  # type: ignore[arg-type]  # dtypes are checked by the class
        except ValueError as wrong:
            raise MessageError(f"error sums: {wrong}") from wrong

    @classmethod
    def merge(cls, parts: Sequence[ErrorSums]) -> ErrorSums:
        """The sums of all cases of the parts."""
        return cls.from_arrays(merge_sums([part.to_arrays() for part in parts]))


def mean_absolute_error(sums: ErrorSums, *, confidence: float = 0.95) -> Estimate:
    """MAE in the outcome's unit, with Student's interval."""
    return mean_interval(float(sums.errors[2]), float(sums.errors[3]), sums.n_cases, confidence=confidence, lowest=0.0)


def bias(sums: ErrorSums, *, confidence: float = 0.95) -> Estimate:
    """Mean of predicted less observed, in the outcome's unit."""
    return mean_interval(float(sums.errors[1]), float(sums.errors[3]), sums.n_cases, confidence=confidence)


def root_mean_squared_error(sums: ErrorSums, *, confidence: float = 0.95) -> Estimate:
    """RMSE in the outcome's unit; the interval is that of the mean square, under the root."""
    square = mean_interval(float(sums.errors[3]), float(sums.moments[2, 0]), sums.n_cases, confidence=confidence)
    value, low, high = (math.sqrt(max(end, 0.0)) for end in (square.value, square.low, square.high))
    return Estimate(value, low, high, "Student's t of the mean square")


def r_squared(sums: ErrorSums, *, confidence: float = 0.95) -> Estimate:
    """Share of the outcome's variance that is explained: 1 - SSE / SST over all merged cases; below 0 is possible.

    Raises
    ------
    MetricError
        Where the outcome does not vary over the merged cases.
    """
    n = sums.n_cases
    if n < 3:
        raise MetricError(f"R2 needs 3 cases, got {n}")
    raw = sums.moments / n
    mean = raw[0, 1]
    spread = raw[0, 2] - mean**2
    if spread <= 1e-14 * raw[0, 2]:
        raise MetricError("R2 is undefined: the outcome does not vary")
    fourth = raw[0, 4] - 4 * mean * raw[0, 3] + 6 * mean**2 * raw[0, 2] - 3 * mean**4
    mixed = raw[1, 2] - 2 * mean * raw[1, 1] + mean**2 * raw[1, 0]
    ratio = raw[1, 0] / spread
    # influence of a case on SSE / SST: (e^2 - ratio (y - mean)^2) / spread
    variance = max(raw[2, 0] - 2 * ratio * mixed + ratio**2 * fourth, 0.0) / spread**2 / n
    half = normal_quantile(confidence) * math.sqrt(variance)
    value = float(1 - ratio)
    return Estimate(value, value - half, min(value + half, 1.0), "delta method")


def calibration_slope(sums: ErrorSums) -> float:
    """Slope of observed on predicted; 1 for a calibrated model, below 1 for predictions that are too extreme."""
    n = sums.n_cases
    spread = float(sums.products[1] - sums.products[0] ** 2 / n) if n else 0.0
    if spread <= 1e-14 * float(sums.products[1]):
        raise MetricError("the calibration slope is undefined: predictions do not vary")
    return float(sums.products[2] - sums.products[0] * sums.moments[0, 1] / n) / spread
