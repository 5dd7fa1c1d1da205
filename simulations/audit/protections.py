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

from common.config.privacy import SampleLevelConfig
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
LARGEST_DELTA = 5e-3
"""Of a what-if on very few cases."""


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
        privacy = study.privacy
        private = privacy.sample_level is not None or privacy.site_level is not None
        return cls._of({PRIVATE: private, SECURE_SUM: privacy.secure_aggregation is not None}, what_if)

    @classmethod
    def of_statistics(cls, study: StudyConfig, *, what_if: Collection[Protection]) -> Protections:
        privacy = study.privacy
        in_use = {PRIVATE: privacy.statistics is not None, SECURE_SUM: privacy.secure_aggregation is not None}
        return cls._of(in_use, what_if)

    @classmethod
    def _of(cls, in_use: dict[Protection, bool], what_if: Collection[Protection]) -> Protections:
        used = tuple(name for name in PROTECTIONS if in_use.get(name, False))
        return cls(used, tuple(name for name in PROTECTIONS if name == NONE or name in used or name in what_if))


def in_words(study: StudyConfig) -> tuple[str, ...]:
    """The protections that the study file asks for, for people."""
    found = []
    if (sample := study.privacy.sample_level) is not None:
        found.append(f"sample-level privacy of training, epsilon {sample.target_epsilon:g}")
    if (site := study.privacy.site_level) is not None:
        found.append(f"site-level privacy of training, clipping norm {site.clipping_norm:g}")
    if study.privacy.secure_aggregation is not None:
        found.append("secure aggregation")
    if (statistics := study.privacy.statistics) is not None:
        found.append(f"private statistics, epsilon {statistics.target_epsilon:g}")
    return tuple(found)


def trained_under(study: StudyConfig, protection: Protection, *, n_cases: int) -> StudyConfig:
    """The study with this protection of its trainings and no other; secure aggregation shows in sums alone."""
    privacy = study.privacy
    kept: dict[str, object] = {"sample_level": None, "site_level": None, "secure_aggregation": None}
    if protection == PRIVATE:
        kept |= {"sample_level": privacy.sample_level, "site_level": privacy.site_level}
        if privacy.sample_level is None and privacy.site_level is None:
            kept["sample_level"] = sample_level_of(study, n_cases=n_cases)
    return study.model_copy(update={"privacy": privacy.model_copy(update=kept)})


def sample_level_of(study: StudyConfig, *, n_cases: int) -> SampleLevelConfig:
    """The study's sample-level privacy, or that of the what-if."""
    if study.privacy.sample_level is not None:
        return study.privacy.sample_level
    return SampleLevelConfig(target_epsilon=WHAT_IF_EPSILON, target_delta=min(0.1 / n_cases, LARGEST_DELTA))


def asked_under(study: StudyConfig, protection: Protection, *, n_cases: int) -> StudyConfig:
    """The study with this protection of its statistics and no other."""
    wanted = study.privacy.statistics if protection == PRIVATE else None
    if protection == PRIVATE and wanted is None:
        wanted = PrivateStatisticsConfig(target_epsilon=WHAT_IF_EPSILON, target_delta=0.1 / n_cases)
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"statistics": wanted})})
