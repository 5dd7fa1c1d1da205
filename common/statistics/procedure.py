"""How a federated statistic is written: one generator that asks questions and is handed the merged answers.

A *query* is a frozen value that a site can answer with sums over its cases. A *procedure* is the coordinator's half::

    def mean(names) -> Procedure[Vector]:
        sums = yield SumQuery(names)            # asked of every site; the sums come back added up
        return sums["total"] / sums["n"]

Both halves of an algorithm so stand in one file, without a network; iterative solvers are loops around ``yield``. What
a query returns is merged by addition (`common.arrays.merge_sums`), in site order: the same under secure aggregation,
and the merged answer does not depend on how the cases are split into sites. One query alone merges otherwise, and its
study is refused under secure aggregation (`common.statistics.xgboost_trees`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from common.arrays import merge_sums
from common.outcomes import Outcome
from common.tables import FeatureTable

Sums = Mapping[str, npt.NDArray[Any]]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Cohort:
    """What a site puts under a query: the cases of the current training fold.

    Parameters
    ----------
    table : FeatureTable
        Features, (n_cases, n_features).
    clinical : FeatureTable
        Clinical covariates of the same cases.
    outcome : Outcome
        Aligned with the rows; queries that must not see it do not touch it.
    batch : tuple of str, length n_cases
        ComBat's batch of each case: the site's name, or site and scanner.
    seed : int
        The study's seed, for queries that draw (bootstraps).
    secret : str
        Known to this site alone: who can compute which cases a draw holds could solve many draws for single cases.
        Empty in simulations, whose draws then do not depend on how cases are split into sites.
    """

    table: FeatureTable
    clinical: FeatureTable
    outcome: Outcome
    batch: tuple[str, ...]
    seed: int = 0
    secret: str = ""

    def take(self, rows: npt.NDArray[np.int64]) -> Cohort:
        """The given rows, in the given order."""
        ids = [self.table.case_ids[i] for i in rows]
        return replace(
            self,
            table=self.table.rows(ids),
            clinical=self.clinical.rows(ids),
            outcome=self.outcome.take(rows),
            batch=tuple(self.batch[i] for i in rows),
        )


class Query(Protocol):
    """A frozen dataclass; its fields are str, int, float, bool, tuples of these, or numeric arrays.

    ``cumulative`` names the sums that are counts of cases up to an edge: the small-cell rule rounds them instead of
    refusing them (`common.statistics.small_cell`).
    """

    kind: ClassVar[str]
    cumulative: ClassVar[tuple[str, ...]]

    def summarise(self, cohort: Cohort) -> Sums:
        """The share of this site in the answer: arrays whose sum over sites is the whole answer."""
        ...

    def case_counts(self, cohort: Cohort) -> npt.NDArray[np.int64]:
        """How many of this site's cases stand behind each number that leaves, complements included; any shape.

        The small-cell rule lets the answer go only where each count is 0 or at least the site's minimum.
        """
        ...


@runtime_checkable
class Merging(Protocol):
    """A query whose answers are no sums."""

    def check(self, answer: Sums) -> None:
        """Is this one site's answer as agreed? MessageError where not."""
        ...

    def merge(self, answers: Sequence[Sums]) -> Sums:
        """The answers of all sites, which were checked, as one."""
        ...


Procedure = Generator[Query, Sums, Result]
Ask = Callable[[Query], Sequence[Sums]]


def run(procedure: Procedure[Result], ask: Ask) -> Result:
    """Drive a procedure: ``ask`` puts a query to every site and returns their sums in a fixed site order."""
    try:
        query = next(procedure)
        while True:
            answers = ask(query)
            query = procedure.send(query.merge(answers) if isinstance(query, Merging) else merge_sums(answers))
    except StopIteration as finished:
        result: Result = finished.value
        return result


def ask_cohorts(cohorts: Sequence[Cohort]) -> Ask:
    """`Ask` over cohorts in this process."""
    return lambda query: [query.summarise(cohort) for cohort in cohorts]
