"""How good is a model: sums that a site computes from its predictions and that merge by addition, and what follows.

A site calls `evaluation_sums`; the coordinator merges them (`merge_evaluation`) and asks for measures
(`common.evaluation.metrics`, `reliability`). A prediction, a score or a row never leaves the site.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.scores import ScoreSums
from common.outcomes import ClassOutcome, Outcome

__all__ = ["ScoreSums", "evaluation_sums"]


def evaluation_sums(
    predictions: npt.NDArray[np.floating], outcome: Outcome, *, minimum_cases: int = 1
) -> Mapping[str, npt.NDArray[np.generic]]:
    """The arrays of one site's evaluation sums, for the wire.

    Parameters
    ----------
    predictions : ndarray, shape (n_cases, n_outputs)
        What the task's link gives: probabilities of the classes.
    outcome : Outcome
        Of the same cases.
    minimum_cases : int
        The site's small-cell minimum.
    """
    if isinstance(outcome, ClassOutcome):
        if predictions.shape[1:] != (len(outcome.classes),):
            raise MetricError(f"predictions {predictions.shape} do not fit the classes {outcome.classes}")
        return ScoreSums.summarise(predictions, outcome.labels, minimum_cases=minimum_cases).to_arrays()
    raise MetricError(f"no evaluation sums for {type(outcome).__name__}")
