"""Scores counted in few bins by class, and `ScoreSums` made of noisy counts: what a private evaluation is.

A case is in one bin of one class, so it changes one count by 1: the L2 norm of `score_counts` changes by 1, whatever
its score. All else that `ScoreSums` holds is computed from the noisy counts: each bin's cases are put at its middle.
What the exact sums have beyond that, the order of pairs within a site and losses of single scores, would have no bound.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from common.errors import MetricError
from common.evaluation.scores import CENTRES, EDGES, N_BINS, ScoreSums, bin_of

Matrix = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

COARSE = 20
"""Bins of equal width: the noise of an area under the curve grows with the root of their number."""

_MIDDLES = (np.arange(COARSE) + 0.5) / COARSE
_PLACES = bin_of(_MIDDLES)


def score_counts(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Matrix:
    """Cases by class and bin of the probability of the second class, shape (2 * `COARSE`,).

    A probability that is not finite counts as 0: refusing would tell, without noise, that there is such a case.

    Raises
    ------
    MetricError
        Where there are not two classes.
    """
    if probabilities.ndim != 2 or probabilities.shape != (len(labels), 2):
        raise MetricError(f"private scores are of two classes, got probabilities {probabilities.shape}")
    p = np.clip(np.nan_to_num(probabilities[:, 1].astype(np.float64), nan=0.0), 0.0, 1.0)
    place = np.minimum((p * COARSE).astype(np.int64), COARSE - 1)
    return np.bincount(labels * COARSE + place, minlength=2 * COARSE).astype(np.float64)


def private_scores(noisy: Matrix, *, n_cases: int, noise_std: float) -> ScoreSums:
    """The sums of ``n_cases`` cases, their public number, whose counts come nearest to ``noisy`` (2 * `COARSE`,).

    Parameters
    ----------
    noise_std : float
        Of each count; two standard deviations of a sum over half the bins stand in ``slack``.
    """
    counts = _whole(_nearest(noisy, float(n_cases)), n_cases).reshape(2, COARSE)
    positives, negatives = np.zeros((1, N_BINS), dtype=np.int64), np.zeros((1, N_BINS), dtype=np.int64)
    negatives[0, _PLACES], positives[0, _PLACES] = counts
    predicted = EDGES[_PLACES] >= 0.5
    confusion = np.stack([counts[:, ~predicted].sum(axis=1), counts[:, predicted].sum(axis=1)], axis=1)
    p = CENTRES[_PLACES]
    brier = np.stack([p**2, (1 - p) ** 2])
    log_loss = -np.log(np.stack([1 - p, p]))
    sums = [float((counts * loss**power).sum()) for loss in (brier, log_loss) for power in (1, 2)]
    pairs = np.array([[0.0, float(positives[0] @ negatives[0])]])
    slack = np.array([round(2 * noise_std * np.sqrt(COARSE / 2))], dtype=np.int64)
    return ScoreSums(positives, negatives, confusion, pairs, np.array([n_cases, *sums]), slack)


def _nearest(noisy: Matrix, total: float) -> Matrix:
    """The nearest point without negative numbers and with this sum (projection onto a simplex, Held et al. 1974)."""
    if total <= 0:
        return np.zeros(len(noisy))
    ordered = np.sort(noisy)[::-1]
    shifts = (np.cumsum(ordered) - total) / np.arange(1, len(noisy) + 1)
    last = int(np.flatnonzero(ordered > shifts)[-1])
    nearest: Matrix = np.maximum(noisy - shifts[last], 0.0)
    return nearest


def _whole(counts: Matrix, total: int) -> Counts:
    """Whole numbers with the same sum: the largest fractions are rounded up."""
    floor = np.floor(counts).astype(np.int64)
    missing = total - int(floor.sum())
    order = np.argsort(-(counts - floor), kind="stable")
    floor[order[: max(missing, 0)]] += 1
    floor[np.argsort(-floor, kind="stable")[: max(-missing, 0)]] -= 1  # a sum that rounding took above the total
    return floor
