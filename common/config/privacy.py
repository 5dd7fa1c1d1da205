"""`[privacy]` of a study: what protects that which leaves a hospital."""

from __future__ import annotations

from pydantic import PositiveInt

from common.config.loading import Frozen
from common.config.private_statistics import PrivateStatisticsConfig


class PrivacyConfig(Frozen):
    """The study's promises; a hospital's own ``site.toml`` may be stricter, never looser.

    Parameters
    ----------
    minimum_cases : int
        No statistic, update or metric is computed from fewer cases.
    statistics : PrivateStatisticsConfig, optional
        Differential privacy of statistics and evaluations.
    """

    minimum_cases: PositiveInt = 5
    statistics: PrivateStatisticsConfig | None = None
