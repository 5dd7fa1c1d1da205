"""How the coordinator talks to the sites: who answers, who is awaited, what each answer cost, and who stays out.

Every question of the study goes through `Conversation`, so that bytes, refusals and waits are counted in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from common.errors import Code, FederationError
from common.federation import Answer, Federation
from common.journal import JsonLines
from common.messages import (
    ANSWER_OF,
    AskStatistic,
    Evaluate,
    EvaluationSums,
    Landmarks,
    LocalUpdate,
    Prepare,
    Refusal,
    Reply,
    Request,
    StatisticSums,
    Train,
)

ATTEMPTS = 3
"""How often a silent site is asked the same before the study goes on, or stops, without it."""

Expected = TypeVar("Expected", bound=Reply)
CourseOf = str | Mapping[str, str]


@dataclass(frozen=True)
class Refused:
    """A site answered with a code instead of what was asked."""

    site: str
    code: str
    request: str

    def __str__(self) -> str:
        return f"site {self.site} refused {self.request}: {self.code}"


class Conversation:
    """Questions and answers of one study run.

    Parameters
    ----------
    federation : Federation
    journal : JsonLines
        Receives one line an answer (kind, bytes, seconds) and one a refusal: the data flow of the report.
    landmarks : mapping of image to landmarks, optional
        Nyul's, as learned; put into every request that is about prepared cases.

    Attributes
    ----------
    hears_sums : bool
        Whether one reply stands for all sites together (`server.secure_sum`).
    """

    hears_sums = False

    def __init__(
        self, federation: Federation, journal: JsonLines, study_digest: str, landmarks: Landmarks | None = None
    ) -> None:
        self.federation = federation
        self.journal = journal
        self.study_digest = study_digest
        self.landmarks: Landmarks = landmarks or {}

    def working_with(self, landmarks: Landmarks) -> Conversation:
        """The conversation on images that are standardised by these landmarks."""
        return Conversation(self.federation, self.journal, self.study_digest, landmarks)

    def ask(
        self,
        requests: Mapping[str, Request],
        expected: type[Expected],
        *,
        deadline_s: float,
        phase: str,
        course: CourseOf = "",
    ) -> Iterator[tuple[str, Expected | Refused]]:
        """Ask each site once; in sorted order of sites, its reply or its refusal.

        ``course`` is noted with each answer: one name, or one for each site where courses run side by side.
        """
        completed = {id(request): self._complete(request) for request in requests.values()}
        requests = {site: completed[id(request)] for site, request in requests.items()}  # equal ones stay one object
        self._say_who_is_asked(requests, phase)
        for answer in self.federation.ask(requests, deadline_s=deadline_s):
            reply = answer.reply
            if not isinstance(reply, Refusal) and type(reply) is not ANSWER_OF[type(requests[answer.site])]:
                reply = Refusal(Code.MESSAGE)
            self._record(answer, requests[answer.site], reply, phase, _course_at(answer.site, course))
            if isinstance(reply, expected):
                yield answer.site, reply
            else:
                code = reply.code if isinstance(reply, Refusal) else str(Code.MESSAGE)
                yield answer.site, Refused(answer.site, code, type(requests[answer.site]).__name__)
            del answer, reply  # a large one is gone before the next is put together

    def insist(
        self,
        requests: Mapping[str, Request],
        expected: type[Expected],
        *,
        deadline_s: float,
        phase: str,
        course: CourseOf = "",
        whole: Mapping[str, Request] | None = None,
    ) -> Iterator[tuple[str, Expected | Refused]]:
        """As `ask`, but a site that was silent is asked again, up to `ATTEMPTS` times in all.

        A site that refuses with ``base_absent`` is at once asked its request of ``whole``, which builds on nothing.

        The answers always come in sorted order of sites, which is what sums in a fixed order need: those that stand
        behind a silent site are held back until it answered or its attempts are used up.
        """
        order = sorted(requests)
        held: dict[str, Expected | Refused] = {}
        waiting = dict(requests)
        for attempt in range(1, ATTEMPTS + 1):
            silent: dict[str, Request] = {}
            for site, answer in self.ask(waiting, expected, deadline_s=deadline_s, phase=phase, course=course):
                reply = answer
                if whole and isinstance(reply, Refused) and reply.code == Code.BASE_ABSENT:
                    waiting[site] = whole[site]
                    again = {site: whole[site]}
                    ((_, reply),) = self.ask(again, expected, deadline_s=deadline_s, phase=phase, course=course)
                if isinstance(reply, Refused) and reply.code == Code.SITE_SILENT and attempt < ATTEMPTS:
                    silent[site] = waiting[site]
                    self.journal.write("awaited", site=site, phase=phase, attempt=attempt)
                    continue
                held[site] = reply
                del answer, reply
                while order and order[0] in held:
                    yield order[0], held.pop(order.pop(0))
            waiting = silent
            if not waiting:
                return

    def all_of(
        self,
        requests: Mapping[str, Request],
        expected: type[Expected],
        *,
        deadline_s: float,
        phase: str,
        course: CourseOf = "",
    ) -> dict[str, Expected]:
        """Every site's reply, sorted by site; refusals raise once all sites were heard.

        Raises
        ------
        FederationError
            Naming every site that refused or stayed silent, with its code; it is the error's where all have the same.
        """
        replies: dict[str, Expected] = {}
        refused: list[Refused] = []
        for site, reply in self.insist(requests, expected, deadline_s=deadline_s, phase=phase, course=course):
            if isinstance(reply, Refused):
                refused.append(reply)
            else:
                replies[site] = reply
        if refused:
            codes = {refusal.code for refusal in refused}
            code = Code(codes.pop()) if len(codes) == 1 and codes <= set(Code) else None
            raise FederationError(f"{phase}: {'; '.join(map(str, refused))}", code=code)
        return replies

    def _complete(self, request: Request) -> Request:
        if self.landmarks and isinstance(request, Prepare | AskStatistic | Train | Evaluate):
            return replace(request, landmarks=self.landmarks)
        return request

    def _say_who_is_asked(self, requests: Mapping[str, Request], phase: str) -> None:
        rounds = {request.round_number for request in requests.values() if isinstance(request, Train)}
        self.journal.write("asked", phase=phase, sites=",".join(sorted(requests)), round_number=max(rounds, default=0))

    def _record(self, answer: Answer, request: Request, reply: Reply, phase: str, course: str) -> None:
        self.journal.write(
            "answer",
            phase=phase,
            course=course,
            site=answer.site,
            request=type(request).__name__,
            reply=type(reply).__name__,
            code=reply.code if isinstance(reply, Refusal) else "",
            bytes_down=answer.bytes_down,
            bytes_up=answer.bytes_up,
            seconds=round(answer.seconds, 3),
        )
        of = "training" if isinstance(reply, LocalUpdate) else "statistics"
        for event in reply.privacy if isinstance(reply, LocalUpdate | StatisticSums | EvaluationSums) else ():
            self.journal.write("privacy", site=answer.site, of=of, **asdict(event))


def _course_at(site: str, course: CourseOf) -> str:
    return course if isinstance(course, str) else course[site]


def same_request(request: Request, sites: Sequence[str]) -> dict[str, Request]:
    """One request for several sites."""
    return dict.fromkeys(sites, request)
