"""How the coordinator puts the queries of a procedure to a course's trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.config.study import StudyConfig
from common.errors import FederationError, MessageError
from common.messages import TRAINING, AskStatistic, StatisticSums, Sums
from common.statistics import encode_query
from common.statistics.procedure import Merging, Procedure, Query, run
from common.statistics.table_steps import Step, encode_steps
from server.conversation import Conversation
from server.courses import Course

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Learner:
    """Runs procedures over the training cases of one course in one fold.

    Parameters
    ----------
    phase : str
        Under which the messages are counted.
    table : str
        Which of the sites' tables is asked (`common.messages.AskStatistic`).
    """

    study: StudyConfig
    course: Course
    fold: int
    conversation: Conversation
    phase: str = "statistics"
    table: str = TRAINING

    def learn(self, procedure: Procedure[Result], steps: Sequence[Step]) -> Result:
        """The result of a procedure on the table that ``steps`` leave."""
        return run(procedure, lambda query: self._ask(query, steps))

    def _ask(self, query: Query, steps: Sequence[Step]) -> Sequence[Sums]:
        """Put one query to the course's trainers; their sums in sorted order of sites."""
        kind, values = encode_query(query)
        request = AskStatistic(
            study_digest=self.conversation.study_digest,
            fold=self.fold,
            kind=kind,
            values=values,
            table_steps=encode_steps(steps),
            table=self.table,
        )
        replies = self.conversation.all_of(
            dict.fromkeys(self.course.trainers, request),
            StatisticSums,
            deadline_s=self.study.federated.round_deadline_s,
            phase=self.phase,
            course=self.course.name,
        )
        answers = {site: reply.sums for site, reply in replies.items()}
        if isinstance(query, Merging):
            _check_each(query, answers)
        return agreeing(answers)


def _check_each(query: Merging, answers: Mapping[str, Sums]) -> None:
    faults = []
    for site, answer in answers.items():
        try:
            query.check(answer)
        except MessageError as error:
            faults.append(f"{site}: {error}")
    if faults:
        raise FederationError("; ".join(faults))


def agreeing(sums: Mapping[str, Sums]) -> list[Sums]:
    """The sums of all sites, in order.

    Raises
    ------
    FederationError
        Where they cannot be added up: names the sites that differ from the first.
    """
    layouts = {site: {k: (v.shape, v.dtype.str) for k, v in answer.items()} for site, answer in sums.items()}
    first, *others = layouts
    odd = [site for site in others if layouts[site] != layouts[first]]
    if odd:
        raise FederationError(f"statistics of {', '.join(odd)} have other fields or shapes than those of {first}")
    return list(sums.values())
