"""`[privacy]` of a study: what protects that which leaves a hospital."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from common.config.loading import Frozen
from common.config.private_statistics import PrivateStatisticsConfig
from common.config.release_gate import ReleaseGateConfig
from common.config.secure_aggregation import SecureAggregationConfig
from common.config.site_level import SiteLevelConfig


class SampleLevelConfig(Frozen):
    """``[privacy.sample_level]``: differential privacy of each case in training, by DP-SGD at the hospitals.

    Each hospital solves its noise once for the whole study (all models, rounds, folds and courses together), so that
    all that it sends about trained models is (``target_epsilon``, ``target_delta``) differentially private for each
    of its training cases. Table steps and evaluation are *not* covered: they have ``[privacy.statistics]``, with a
    target of its own, or the small-cell rule alone.

    Parameters
    ----------
    target_epsilon : float
    target_delta : float
        A number that all agree on, below one in the cases of the largest hospital; a tenth of that is usual.
    clipping_norm : float
        Largest L2 norm of what one case adds to a gradient.
    spare_rounds : int
        Rounds that may be trained once more, after a crash or a lost answer, without leaving the target: their noise
        is drawn anew, so they cost anew. Each makes the noise of all a little larger.
    """

    target_epsilon: PositiveFloat
    target_delta: Annotated[float, Field(gt=0, lt=0.01)]
    clipping_norm: PositiveFloat = 1.0
    spare_rounds: NonNegativeInt = 0


class PrivacyConfig(Frozen):
    """The study's promises; a hospital's own ``site.toml`` may be stricter, never looser.

    Parameters
    ----------
    minimum_cases : int
        No statistic, update or metric is computed from fewer cases.
    statistics : PrivateStatisticsConfig, optional
        Differential privacy of statistics and evaluations.
    sample_level : SampleLevelConfig, optional
        Differential privacy of each case in training.
    secure_aggregation : SecureAggregationConfig, optional
        The coordinator sees sums over hospitals and nothing of one; absent: it sees each hospital's answers.
    site_level : SiteLevelConfig, optional
        Differential privacy of a hospital's whole data set in the rounds of training.
    release_gate : ReleaseGateConfig, optional
        What ``fedrad audit`` may find at most.
    """

    minimum_cases: PositiveInt = 5
    statistics: PrivateStatisticsConfig | None = None
    sample_level: SampleLevelConfig | None = None
    secure_aggregation: SecureAggregationConfig | None = None
    site_level: SiteLevelConfig | None = None
    release_gate: ReleaseGateConfig | None = None
