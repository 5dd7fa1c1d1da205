"""`[privacy.site_level]` of a study: differential privacy of a hospital's whole data set in the rounds of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, model_validator

from common.config.fields import Fraction
from common.config.loading import Check, Frozen, refuse, require
from common.config.secure_aggregation import sum_plan
from common.messages import PrivacyEvent
from common.privacy.central import AdaptiveNorm, SiteLevel
from common.privacy.discrete_gaussian import DistributedNoise, Shares, distributed_noise
from common.privacy.ledger import solve_noise_multiplier

if TYPE_CHECKING:
    from common.config.study import StudyConfig

MEAN_ONLY = ("fedavg", "fedprox", "fedadam", "fedyogi")
"""Strategies that ask for no more than the mean update."""

NOISE_REACH = 12
"""Standard deviations of a share that fit a masked word beside the update: more does not occur."""


class AdaptiveClippingConfig(Frozen):
    """The clipping norm follows the updates, from where ``clipping_norm`` starts (Andrew et al. 2021).

    Parameters
    ----------
    quantile : float
        Share of the hospitals' updates that should be below the norm.
    learning_rate : float
    share : float
        Of each round's privacy cost, what the count of these updates takes.
    """

    quantile: Fraction = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=2)] = 0.2
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1


class SiteLevelConfig(Frozen):
    """Noise on the sum of all hospitals' updates, at the coordinator; give ``noise_multiplier`` or ``target_epsilon``.

    Parameters
    ----------
    clipping_norm : float
        Largest L2 norm of a hospital's update.
    noise_multiplier : float, optional
        Standard deviation of the noise on the sum, over the clipping norm.
    target_epsilon : float, optional
        Of all rounds of all models and folds together; the noise follows from it.
    target_delta : float
        At which epsilon is meant, or reported.
    """

    clipping_norm: PositiveFloat
    noise_multiplier: PositiveFloat | None = None
    target_epsilon: PositiveFloat | None = None
    target_delta: Fraction
    adaptive: AdaptiveClippingConfig | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> SiteLevelConfig:
        faults: list[str] = []
        one = (self.noise_multiplier is None) != (self.target_epsilon is None)
        require(one, "give either noise_multiplier or target_epsilon", faults)
        refuse(faults)
        return self


def protected_rounds(study: StudyConfig) -> int:
    """Rounds of all models in all folds that a hospital takes part in."""
    folds = study.n_folds - (study.split.kind == "leave_one_site_out")
    return folds * sum(entry.rounds for entry in study.models)


def site_level_of(study: StudyConfig) -> SiteLevel | None:
    """The mechanism of each round; None where the study has none.

    Raises
    ------
    PrivacyError
        Where no noise reaches the target.
    """
    config = study.privacy.site_level
    if config is None:
        return None
    noise = config.noise_multiplier
    if noise is None:
        assert config.target_epsilon is not None  # one of the two is given
        noise = _noise(config.target_epsilon, config.target_delta, protected_rounds(study))
    adaptive = config.adaptive
    if adaptive is None:
        return SiteLevel(noise)
    return SiteLevel(noise, AdaptiveNorm(adaptive.quantile, adaptive.learning_rate, adaptive.share))


def site_level_cost(study: StudyConfig) -> tuple[PrivacyEvent, ...]:
    """What all rounds of the study cost a hospital; nothing where there is no site-level privacy."""
    level = site_level_of(study)
    return level.cost() * protected_rounds(study) if level is not None else ()


@lru_cache(maxsize=64)
def _noise(target_epsilon: float, delta: float, steps: int) -> float:
    return solve_noise_multiplier(target_epsilon=target_epsilon, delta=delta, sampling_rate=1.0, steps=steps)


def shared_noise(study: StudyConfig, cohort: Sequence[str], *, size: int) -> DistributedNoise:
    """Each site's share of the noise in a masked sum of ``size`` numbers: whole with the fewest sites that a sum needs.

    Raises
    ------
    ValueError
        For a study without site-level privacy under secure aggregation.
    PrivacyError
        Where the grid of the sum is too coarse.
    """
    config, level, secure = study.privacy.site_level, site_level_of(study), study.privacy.secure_aggregation
    if config is None or level is None or secure is None:
        raise ValueError(f"study {study.name} has no site-level privacy under secure aggregation")
    return distributed_noise(
        noise_multiplier=level.noise_multiplier,
        clipping_norm=config.clipping_norm,
        step=sum_plan(study, cohort).grid.step,
        size=size,
        shares=shares_of(study, cohort),
    )


def shares_of(study: StudyConfig, cohort: Sequence[str]) -> Shares:
    """How the noise of a masked sum is divided: whole with the fewest sites that a sum needs.

    Raises
    ------
    ValueError
        For a study without secure aggregation.
    """
    secure = study.privacy.secure_aggregation
    if secure is None:
        raise ValueError(f"study {study.name} does not use secure aggregation")
    return Shares(len(cohort), len(cohort) - secure.least(len(cohort)))


def _weights(study: StudyConfig) -> Iterator[str]:
    strategy = study.federated.strategy
    if study.privacy.site_level is None:
        return
    if strategy.kind not in MEAN_ONLY:
        yield f"federated.strategy: {strategy.kind} needs more than the mean update, which site-level privacy gives"
    elif strategy.weighting != "uniform":
        yield (
            'federated.strategy: site-level privacy needs weighting = "uniform": by n_cases one hospital could '
            "outweigh the noise, and its number of cases would leave"
        )


def _fixed_quorum(study: StudyConfig) -> Iterator[str]:
    quorum = study.federated.quorum
    if study.privacy.site_level is not None and quorum not in (None, study.n_training):
        yield (
            f"federated.quorum: site-level privacy needs all {study.n_training} training sites in each round, got "
            f"{quorum}: who is absent would change the mean and the noise"
        )


def _several(study: StudyConfig) -> Iterator[str]:
    if study.privacy.site_level is not None and study.n_training < 2:
        yield "privacy.site_level: with one training site the model is that site's data set"


def _no_solved(study: StudyConfig) -> Iterator[str]:
    for entry in study.models:
        if study.privacy.site_level is not None and entry.solved is not None:
            yield f"model {entry.name}: kind {entry.solved.kind} has no rounds, so site-level privacy cannot protect it"


def _no_local(study: StudyConfig) -> Iterator[str]:
    if study.privacy.site_level is not None and study.local_only:
        yield "local_only: a hospital's own model is its data set, which site-level privacy is to hide; set it to false"


def _masked(study: StudyConfig) -> Iterator[str]:
    config, secure = study.privacy.site_level, study.privacy.secure_aggregation
    if config is None or secure is None:
        return
    if config.adaptive is not None:
        yield "privacy.site_level.adaptive: under secure aggregation nobody sees the length of one update"
    level, needed = site_level_of(study), secure.least(study.n_training)
    assert level is not None  # there is a config
    room = config.clipping_norm * (1 + NOISE_REACH * level.noise_multiplier / math.sqrt(needed))
    if study.federated.compression.kind == "none" and secure.value_bound < room:  # else the words follow from both
        yield (
            f"privacy.secure_aggregation.value_bound: {secure.value_bound:g} leaves no room for an update of norm "
            f"{config.clipping_norm:g} and a share of the noise, expected at least {room:.3g}"
        )


SITE_LEVEL_RULES = (
    Check(("privacy", "federated"), _weights),
    Check(("privacy", "federated", "sites"), _fixed_quorum),
    Check(("privacy", "sites"), _several),
    Check(("privacy", "models"), _no_solved),
    Check(("privacy", "local_only"), _no_local),
    Check(("privacy", "sites", "models", "split", "federated"), _masked),
)
