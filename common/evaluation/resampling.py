"""Bootstrap intervals from merged counts: drawing cases anew needs no case, only how many lie in each bin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from common.evaluation.scores import ScoreSums
from common.evaluation.uncertainty import Estimate


def bootstrap(
    sums: ScoreSums,
    measure: Callable[[ScoreSums], float],
    *,
    generator: np.random.Generator,
    n_draws: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """Percentile interval of a measure of one curve of two classes (AUC, average precision, a rate at a threshold).

    Cases are drawn with replacement within each class: from the counts, a multinomial draw. What the sites corrected
    exactly (`ScoreSums.pairs`) shifts all draws alike. Losses are not drawn anew: they have intervals of their own.

    Parameters
    ----------
    measure : callable
        Of sums; MetricError where it is undefined.
    generator : numpy.random.Generator
    """
    positives, negatives = sums.curve()
    value = measure(sums)
    binned = replace(sums, pairs=np.zeros_like(sums.pairs))
    shift = value - measure(binned)
    found = np.sort(
        [
            measure(replace(binned, positives=_drawn(positives, generator), negatives=_drawn(negatives, generator)))
            for _ in range(n_draws)
        ]
    )
    low, high = np.quantile(found + shift, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), f"bootstrap of {n_draws} draws")


def _drawn(counts: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    drawn = generator.multinomial(int(counts.sum()), counts / counts.sum())
    return np.asarray(drawn[None, :], dtype=np.int64)
