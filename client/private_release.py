"""A private answer: its cost is on the disk before any of it is computed to leave, then noise goes on the bounded sums.

The same question asked again is paid again, because its noise is drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.evaluation.private_scores import private_scores, score_counts
from common.messages import PrivacyEvent, Sums
from common.privacy.gaussian import inflated, with_noise
from common.rng import NoiseSource, SystemNoise
from common.statistics.bounded_sums import bounded_sums
from common.statistics.bounds import Limits
from common.statistics.procedure import Cohort, Query

Reserve = Callable[[Sequence[PrivacyEvent]], None]
"""Writes a cost down, or raises where there is no budget for it (`client.privacy_budget`)."""


@dataclass(frozen=True)
class PrivateRelease:
    """How a hospital answers where a study has private statistics.

    Parameters
    ----------
    cost : PrivacyEvent
        Of one answer; its noise multiplier is the standard deviation of the noise on sums that a case moves by 1.
    reserve : callable
    source : NoiseSource
        The operating system's entropy in a study.
    """

    cost: PrivacyEvent
    reserve: Reserve
    source: NoiseSource = field(default_factory=SystemNoise)

    def statistic(self, query: Query, cohort: Cohort, limits: Limits) -> Sums:
        """The noisy answer to a query about all of ``cohort``.

        Raises
        ------
        PrivacyError
            Where the query has no private version; nothing is spent then.
        GateError
            Where the budget does not allow it; nothing is answered then.
        """
        bounded = bounded_sums(query, cohort, limits)
        self.reserve((self.cost,))
        return bounded.answer(self._noisy(bounded.scaled()))

    def scores(self, probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Sums:
        """The noisy score sums of a model; raises as `statistic`."""
        counts = score_counts(probabilities, labels)
        self.reserve((self.cost,))
        noise_std = self.cost.noise_multiplier
        return private_scores(self._noisy(counts), n_cases=len(labels), noise_std=noise_std).to_arrays()

    def _noisy(self, scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        std = inflated(self.cost.noise_multiplier, sensitivity=1.0, n_values=scaled.size)
        return with_noise(scaled, std=std, source=self.source)
