"""`[privacy.secure_aggregation]` of a study, `[secure_aggregation]` of a hospital, and what they exclude."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from common.config.fields import Name
from common.config.loading import Frozen
from common.privacy.contribution import SumPlan
from common.privacy.fixed_point import MAX_SITES, Bits, Rounding
from common.privacy.mask_graph import COMPLETE_UP_TO, CORRUPT
from common.strategies.interface import Weighting

if TYPE_CHECKING:
    from common.config.study import StudyConfig

ALL_SITES, ALL_EXTERNAL = "all-sites", "all-external-sites"
"""Under these names sums stand in the record where a hospital's own numbers would stand."""

SUMMED_STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedyogi")
"""Strategies that need the weighted mean of the updates and nothing else of them."""

FINEST = 2**-12
"""Rounding may move a mean by at most this part of the bound."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F:]{64,95}$")]


class SecureAggregationConfig(Frozen):
    """Every answer about cases leaves under masks that cancel in the sum (`common.privacy.masking`).

    Parameters
    ----------
    threshold : float
        Part of a cohort that must be in a sum; more than half, always.
    minimum_sites : int
        Least number of sites in a sum, whatever the threshold.
    value_bound : float
        Largest size of a value of one site's delta; a site whose delta has a larger one sends none in that round.
    most_cases : int
        Most cases of one site.
    bits : {32, 64}
        Of a word of the delta.
    rounding : {"nearest", "stochastic"}
        Of the delta to the grid.
    """

    threshold: Annotated[float, Field(gt=0.5, le=1)] = 2 / 3
    minimum_sites: Annotated[int, Field(ge=3)] = 3
    value_bound: PositiveFloat = 4.0
    most_cases: PositiveInt = 10_000
    bits: Bits = 32
    rounding: Rounding = "nearest"

    def least(self, n_sites: int) -> int:
        """Sites of a cohort that must be in a sum."""
        by_part = math.ceil(self.threshold * n_sites - 1e-9)
        return min(n_sites, max(by_part, n_sites // 2 + 1, self.minimum_sites))

    def in_league(self, n_sites: int) -> int:
        """Sites in league with the coordinator that it takes to have two sets of sites signed in one session."""
        return 2 * self.least(n_sites) - n_sites

    def plan(self, n_sites: int, weighting: Weighting) -> SumPlan:
        """How answers of so many sites are put into words."""
        return SumPlan(n_sites, self.bits, self.value_bound, self.most_cases, weighting)


class SiteSecureAggregationConfig(Frozen):
    """What this hospital demands of masked sums.

    Parameters
    ----------
    minimum_sites : int
        Least number of hospitals in a sum that this hospital's numbers go into.
    authorities : tuple of Path
        Certificates of further authorities: of hospitals whose certificate is of their own.
    peers : mapping of site to SHA-256
        Of other hospitals' public keys, as told by telephone. The consortium's authority often stands at the
        coordinator, who could make itself a certificate in a hospital's name: with this it is refused.
    """

    minimum_sites: Annotated[int, Field(ge=3)] = 3
    authorities: tuple[Path, ...] = ()
    peers: dict[Name, Sha256] = Field(default_factory=dict)


def cohorts(study: StudyConfig) -> Mapping[str, tuple[str, ...]]:
    """The sets of sites whose answers are added up, by the name of the sum; never another set."""
    external = tuple(sorted(site.name for site in study.sites if site.role == "external"))
    found = {ALL_SITES: study.training_sites}
    return found | {ALL_EXTERNAL: external} if external else found


def sum_plan(study: StudyConfig, cohort: Sequence[str]) -> SumPlan:
    """How answers of a cohort of this study are put into words.

    Raises
    ------
    ValueError
        If the study does not use secure aggregation.
    """
    config = study.privacy.secure_aggregation
    if config is None:
        raise ValueError(f"study {study.name} does not use secure aggregation")
    return config.plan(len(cohort), _weighting(study))


def _weighting(study: StudyConfig) -> Weighting:
    return "uniform" if getattr(study.federated.strategy, "weighting", "") == "uniform" else "n_cases"


def secure_aggregation_faults(study: StudyConfig) -> Iterator[str]:
    """What cannot be together with sums alone, each with its reason."""
    config = study.privacy.secure_aggregation
    if config is None:
        return
    place = "privacy.secure_aggregation"
    for name, sites in cohorts(study).items():
        kind = "training" if name == ALL_SITES else "external"
        if len(sites) < config.minimum_sites:
            yield f"{place}: {len(sites)} {kind} sites, a sum over fewer than {config.minimum_sites} hides nobody"
        if len(sites) > COMPLETE_UP_TO and config.in_league(len(sites)) <= CORRUPT * len(sites):
            yield (
                f"{place}.threshold: with {config.least(len(sites))} of {len(sites)} {kind} sites, "
                f"{config.in_league(len(sites))} in league with the coordinator could read another's answer; one site "
                "in five must not be enough: expected a threshold above 0.6"
            )
        if len(sites) > MAX_SITES:
            yield f"{place}: {len(sites)} {kind} sites, a sum has room for {MAX_SITES}"
    if {ALL_SITES, ALL_EXTERNAL} & {site.name for site in study.sites}:
        yield f"{place}: a site cannot be named {ALL_SITES} or {ALL_EXTERNAL}"
    if study.local_only:
        yield f"{place}: local_only asks single sites, whose answers no mask covers"
    if study.split.kind == "leave_one_site_out":
        yield f"{place}: leave_one_site_out tests at one site, whose answer no mask covers"
    strategy = study.federated.strategy
    if strategy.kind not in SUMMED_STRATEGIES:
        yield f"{place}: strategy {strategy.kind} must see single updates; use one of {', '.join(SUMMED_STRATEGIES)}"
    for entry in study.models:
        if entry.solved is not None and not entry.solved.sends_sums:
            yield f"{place}: model {entry.name}: kind {entry.solved.kind} sends trees, which are no sums; use boosting"
    if study.evaluation.subgroups:
        yield f"{place}: evaluation.subgroups: which levels a site withholds differs, so their sums cannot be masked"
    yield from _grid_faults(study, config)


def _grid_faults(study: StudyConfig, config: SecureAggregationConfig) -> Iterator[str]:
    place = "privacy.secure_aggregation"
    weighting = _weighting(study)
    step = config.plan(max(study.n_training, 1), weighting).grid.step
    cases = study.privacy.minimum_cases if weighting == "n_cases" else 1
    if step / (2 * cases) > FINEST * config.value_bound:
        yield (
            f"{place}: {config.bits} bits leave steps of {step:.2g} for {study.n_training} sites of up to "
            f"{config.most_cases} cases; use bits = 64, or a smaller most_cases"
        )
