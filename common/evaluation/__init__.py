"""How good is a model: sums that a site computes from its predictions and that merge by addition, and what follows.

A site calls `evaluation_sums`; the coordinator reads what arrived with `read_sums`, merges it (``merge`` of each kind
of sums) and asks for measures: `metrics` and `reliability` of `ScoreSums`, `regression` of `ErrorSums`, `survival` of
`RiskSums`. A prediction, a score or a row never leaves the site.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.regression import ErrorSums
from common.evaluation.risk_grid import RiskSums, risk_of_survival
from common.evaluation.scores import ScoreSums
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome

__all__ = ["ErrorSums", "RiskSums", "ScoreSums", "evaluation_sums", "read_sums"]

Arrays = Mapping[str, npt.NDArray[np.generic]]


def evaluation_sums(
    predictions: npt.NDArray[np.floating], outcome: Outcome, *, minimum_cases: int = 1, centre: float = 0.0
) -> Arrays:
    """The arrays of one site's evaluation sums, for the wire.

    Parameters
    ----------
    predictions : ndarray, shape (n_cases, n_outputs)
        What the task's link gives: probabilities of the classes, the predicted number, or the probabilities of
        surviving past each interval.
    outcome : Outcome
        Of the same cases.
    minimum_cases : int
        The site's small-cell minimum.
    centre : float
        For a scalar outcome: a number near its mean that all sites agree on; it keeps digits.

    Raises
    ------
    MetricError
        Where predictions do not fit the outcome or are not finite.
    GateError
        Code ``small_cell``, where a class or the events at this site are fewer than the minimum.
    """
    if predictions.ndim != 2 or len(predictions) != len(outcome):
        raise MetricError(f"predictions {predictions.shape} do not fit {len(outcome)} cases")
    if isinstance(outcome, ClassOutcome):
        if predictions.shape[1] != len(outcome.classes):
            raise MetricError(f"predictions {predictions.shape} do not fit the classes {outcome.classes}")
        return ScoreSums.summarise(predictions, outcome.labels, minimum_cases=minimum_cases).to_arrays()
    if isinstance(outcome, ScalarOutcome):
        return ErrorSums.summarise(
            predictions[:, 0], outcome.values, centre=centre, minimum_cases=minimum_cases
        ).to_arrays()
    return RiskSums.summarise(risk_of_survival(predictions), outcome, minimum_cases=minimum_cases).to_arrays()


def read_sums(arrays: Arrays) -> ScoreSums | ErrorSums | RiskSums:
    """The sums that arrived as ``arrays``; MessageError where they are of no kind or not as agreed."""
    if "confusion" in arrays:
        return ScoreSums.from_arrays(arrays)
    if "moments" in arrays:
        return ErrorSums.from_arrays(arrays)
    return RiskSums.from_arrays(arrays)
