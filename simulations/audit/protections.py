"""The protections that an audit tells apart, which of them a study uses, and the study with or without one.

Nothing of a protection is written here: the audited updates come from `client.study_at_site.StudyAtSite` and private
statistics from `client.private_release`, which protect them as the study file says. Secure aggregation needs no code
either, because all that it lets a coordinator see is the sum over the hospitals; that the masks give exactly this sum
is tested with them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from common.config.private_statistics import PrivateStatisticsConfig
from common.config.study import StudyConfig

Protection = Literal["none", "differential privacy", "secure aggregation"]
NONE: Protection = "none"
PRIVATE: Protection = "differential privacy"
SECURE_SUM: Protection = "secure aggregation"
PROTECTIONS: tuple[Protection, ...] = (NONE, PRIVATE, SECURE_SUM)

NOT_USED = "not used in this study"

WHAT_IF_EPSILON = 8.0
"""Of what is measured although the study does not use it; delta is a tenth of one in the cases."""


@dataclass(frozen=True)
class Protections:
    """What a study uses for one kind of release, and what is measured beside it.

    Parameters
    ----------
    used : tuple of Protection
    measured : tuple of Protection
        `NONE` always, the used ones, and those that were asked for as well.
    """

    used: tuple[Protection, ...]
    measured: tuple[Protection, ...]

    @classmethod
    def of_training(cls, study: StudyConfig, *, what_if: Collection[Protection]) -> Protections:
        return cls._of({PRIVATE: False, SECURE_SUM: False}, what_if)

    @classmethod
    def of_statistics(cls, study: StudyConfig, *, what_if: Collection[Protection]) -> Protections:
        return cls._of({PRIVATE: study.privacy.statistics is not None, SECURE_SUM: False}, what_if)

    @classmethod
    def _of(cls, in_use: dict[Protection, bool], what_if: Collection[Protection]) -> Protections:
        used = tuple(name for name in PROTECTIONS if in_use.get(name, False))
        return cls(used, tuple(name for name in PROTECTIONS if name == NONE or name in used or name in what_if))


def in_words(study: StudyConfig) -> tuple[str, ...]:
    """The protections that the study file asks for, for people."""
    found = []
    if (statistics := study.privacy.statistics) is not None:
        found.append(f"private statistics, epsilon {statistics.target_epsilon:g}")
    return tuple(found)


def trained_under(study: StudyConfig, protection: Protection, *, n_cases: int) -> StudyConfig:
    """The study with this protection of its trainings and no other."""
    return study


def asked_under(study: StudyConfig, protection: Protection, *, n_cases: int) -> StudyConfig:
    """The study with this protection of its statistics and no other."""
    wanted = study.privacy.statistics if protection == PRIVATE else None
    if protection == PRIVATE and wanted is None:
        wanted = PrivateStatisticsConfig(target_epsilon=WHAT_IF_EPSILON, target_delta=0.1 / n_cases)
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"statistics": wanted})})
