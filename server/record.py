"""What a study found out, as frozen values: counts of cases, evaluations, trainings, messages.

Nothing is computed here but sums of sums; measures are in `server.scoring`, reading and writing in `server.results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from common.arrays import merge_sums
from common.config.secure_aggregation import ALL_SITES, cohorts
from common.config.study import StudyConfig, StudySite
from common.errors import MetricError
from common.evaluation import ErrorSums, RiskSums, ScoreSums, read_sums
from common.evaluation.fairness import read_subgroups
from common.statistics.batch_effect import BatchEffect
from server.courses import FEDERATED, POOLED
from server.selection import Selected
from server.training_state import SiteRound

Arrays = Mapping[str, npt.NDArray[np.generic]]
AnySums = ScoreSums | ErrorSums | RiskSums

_FIRST = {FEDERATED: 0, POOLED: 1}

UNASSIGNED = "unassigned"
"""Rows of a simulation's cohort that belong to no site of the study."""


@dataclass(frozen=True)
class SiteCases:
    """How many cases a hospital listed, and what became of them.

    Parameters
    ----------
    role : str
        "training", "external", or "" for rows of no hospital.
    exclusions : mapping of error code to number of cases
    """

    site: str
    role: str
    n_listed: int
    n_usable: int
    exclusions: Mapping[str, int]

    @property
    def n_excluded(self) -> int:
        return sum(self.exclusions.values())

    @property
    def adds_up(self) -> bool:
        return self.n_listed == self.n_usable + self.n_excluded


@dataclass(frozen=True, eq=False)
class SiteEvaluation:
    """What one hospital said of one model: sums of all folds, and the folds that it refused, by code.

    ``subgroups`` are sums by the study's subgroups, named as they travelled (`common.evaluation.fairness`).
    """

    n_cases: int
    sums: Arrays | None
    refused: Mapping[int, str]
    subgroups: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One model of one course in one fold, after its last complete round, or as it was solved.

    Parameters
    ----------
    round_number, rounds : int
        0 for a solved model.
    sha256 : str
        Of layout and bytes of the parameters: equal means bit-identical.
    absent : tuple of str
        ``round site code`` of every site that a round went on without.
    """

    course: str
    model: str
    fold: int
    round_number: int
    rounds: int
    n_parameters: int
    sha256: str
    history: tuple[SiteRound, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HarmonisationRecord:
    """What harmonisation did in one course and fold; an effect that could not be measured is None."""

    course: str
    fold: int
    before: BatchEffect | None
    after: BatchEffect | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SelectionRecord:
    """What each selection step kept in one course and fold."""

    course: str
    fold: int
    steps: tuple[Selected, ...]


@dataclass(frozen=True)
class Flow:
    """Messages of one kind between the coordinator and one hospital, added up; bytes as encoded, before TLS."""

    site: str
    phase: str
    request: str
    reply: str
    code: str
    n_messages: int
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass(frozen=True)
class Wait:
    """A hospital that was silent in a phase and asked again, ``n`` times in all."""

    site: str
    phase: str
    n: int


@dataclass(frozen=True)
class TimeLine:
    """The time line of a run: when it began and was last heard of, how often it was started, whether it finished."""

    began: datetime
    last: datetime
    n_starts: int
    finished: bool

    @property
    def seconds(self) -> float:
        return (self.last - self.began).total_seconds()


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Everything that a study found out.

    Parameters
    ----------
    versions : mapping of library to version
    cases : tuple of SiteCases
        Sorted by role and name; rows of no site last. Empty before the sites were prepared.
    evaluations : mapping of (course, model, site) to SiteEvaluation
    simulated : bool
        All sites were objects in one process (``fedrad simulate``).
    """

    study: StudyConfig
    study_digest: str
    study_text: str
    versions: Mapping[str, str]
    cases: tuple[SiteCases, ...]
    evaluations: Mapping[tuple[str, str, str], SiteEvaluation]
    trainings: tuple[Training, ...]
    flows: tuple[Flow, ...]
    waits: tuple[Wait, ...]
    time_line: TimeLine | None
    simulated: bool
    harmonisations: tuple[HarmonisationRecord, ...] = ()
    selections: tuple[SelectionRecord, ...] = ()

    @property
    def courses(self) -> tuple[str, ...]:
        """Courses with any result: federated, pooled, then the local ones by name."""
        found = {training.course for training in self.trainings} | {key[0] for key in self.evaluations}
        return tuple(sorted(found, key=lambda name: (_FIRST.get(name, len(_FIRST)), name)))

    @property
    def external_sites(self) -> tuple[str, ...]:
        return tuple(sorted(site.name for site in self.study.sites if site.role == "external"))

    @property
    def answering(self) -> tuple[StudySite, ...]:
        """Under whose names evaluations stand: every hospital's, training ones first, or those of masked sums."""
        if self.study.privacy.secure_aggregation is None:
            return tuple(sorted(self.study.sites, key=lambda site: (site.role != "training", site.name)))
        return tuple(
            StudySite(name=name, role="training" if name == ALL_SITES else "external") for name in cohorts(self.study)
        )

    def merged(self, course: str, model: str, sites: Sequence[str]) -> AnySums:
        """Sums over all cases of the given sites, of every fold.

        Raises
        ------
        MetricError
            Where none of the sites has evaluated the model.
        """
        found = [self.evaluations.get((course, model, site)) for site in sites]
        parts = [evaluation.sums for evaluation in found if evaluation is not None and evaluation.sums is not None]
        if not parts:
            raise MetricError("no hospital has evaluated this model")
        return read_sums(merge_sums(parts))

    def subgroups(self, course: str, model: str, sites: Sequence[str]) -> dict[str, dict[str, ScoreSums]]:
        """Sums by attribute and level over all cases of the given sites; empty where there are none."""
        found = [self.evaluations.get((course, model, site)) for site in sites]
        parts = [evaluation.subgroups for evaluation in found if evaluation is not None and evaluation.subgroups]
        return read_subgroups(merge_sums(parts)) if parts else {}

    def sites_without_answer(self, course: str, model: str) -> tuple[str, ...]:
        """Hospitals of the study of which some fold's evaluation of this model is missing, also from a masked sum."""
        own = {site: found for (of, name, site), found in self.evaluations.items() if (of, name) == (course, model)}
        refused = {site for site, found in own.items() if found.refused}
        return tuple(sorted(refused | ({entry.name for entry in self.answering} - own.keys())))
