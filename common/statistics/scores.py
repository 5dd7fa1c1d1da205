"""Scores of cases under coefficients that come from outside: neither their size nor a refusal tells of one case.

Coefficients may be so steep that a score says no more than on which side of a value a case lies. To refuse them because
of the largest score would tell the largest value, by bisection, so what is asked of is the mean square, a sum over all
cases as moments are, and single scores are cut.
"""

from __future__ import annotations

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Matrix

MAX_SCORE = 30.0
"""Scores (log odds, log hazards) are cut here: ``exp(-30)`` is 1e-13."""

MAX_RMS = 15.0
"""Root mean square of scores; fits whose classes are not separated stay far below."""


def bounded_scores(scores: Matrix, *, advice: str) -> Matrix:
    """The scores, each cut to -`MAX_SCORE` to `MAX_SCORE`.

    Parameters
    ----------
    scores : ndarray, shape (n_cases,) or (n_cases, n_models)
    advice : str
        What whoever fits the model could do.

    Raises
    ------
    StatisticError
        If the root mean square over the cases exceeds `MAX_RMS`, or is not finite.
    """
    if not scores.size:
        return scores
    with np.errstate(over="ignore", invalid="ignore"):
        rms = float(np.sqrt(np.mean(np.square(scores), axis=0)).max())
    if not rms <= MAX_RMS:
        raise StatisticError(f"scores of a root mean square of {rms:.3g} exceed {MAX_RMS:g}: {advice}")
    return np.clip(scores, -MAX_SCORE, MAX_SCORE)
