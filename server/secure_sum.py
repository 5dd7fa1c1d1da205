"""A conversation that hears sums: each question about cases becomes one masked sum, each answer that of all sites.

Between the procedures of a study and its federation: training, statistics and evaluation ask as ever, and get one reply
under the name of the sum (`common.config.secure_aggregation.ALL_SITES`) in place of one for each site, beside the
refusals of sites that dropped out. Questions that are not about cases (`Hello`, `Prepare`, `Finish`) go to each site.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from common.codec import message_digest
from common.config.secure_aggregation import cohorts, sum_plan
from common.config.shared_grids import shared_grid_of
from common.config.study import StudyConfig
from common.errors import Code, FederationError, MessageError, PrivacyError
from common.federation import Federation
from common.journal import JsonLines
from common.masking_messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    Consistent,
    KeysAdvertised,
    MaskedValues,
    ShareKeys,
    SharesSealed,
    Unmask,
    Unmasked,
)
from common.messages import AskStatistic, Landmarks, MaskedInput, Question, Reply, Request, Train
from common.privacy.contribution import SumPlan, from_words, require_layout
from common.privacy.mask_keys import MaskWords, Terms
from common.privacy.mask_statements import is_octets
from common.privacy.shared_grid import SharedGrid
from common.privacy.unmasking import MaskingServer
from server.conversation import ATTEMPTS, Conversation, CourseOf, Refused

Expected = TypeVar("Expected", bound=Reply)
Step = TypeVar("Step", bound=Reply)


class SecureConversation(Conversation):
    """Questions and answers of a study whose sites add up under masks."""

    hears_sums = True

    def __init__(
        self,
        federation: Federation,
        journal: JsonLines,
        study_digest: str,
        study: StudyConfig,
        *,
        landmarks: Landmarks | None = None,
    ) -> None:
        super().__init__(federation, journal, study_digest, landmarks)
        self.study = study
        self._cohorts = cohorts(study)
        self._hospitals = {site for sites in self._cohorts.values() for site in sites}

    def working_with(self, landmarks: Landmarks) -> SecureConversation:
        return SecureConversation(self.federation, self.journal, self.study_digest, self.study, landmarks=landmarks)

    def ask(
        self,
        requests: Mapping[str, Request],
        expected: type[Expected],
        *,
        deadline_s: float,
        phase: str,
        course: CourseOf = "",
    ) -> Iterator[tuple[str, Expected | Refused]]:
        """As `Conversation.ask`; a question about cases is summed over each cohort that is asked whole."""
        if not self._is_summed(requests):
            yield from super().ask(requests, expected, deadline_s=deadline_s, phase=phase, course=course)
            return
        asked = self._summed(requests, requests, deadline_s=deadline_s, phase=phase, course=course)
        yield from cast("Iterator[tuple[str, Expected | Refused]]", asked)

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
        """As `Conversation.insist`; within a masked sum every step is insisted on."""
        if self._is_summed(requests):
            asked = self._summed(requests, whole or requests, deadline_s=deadline_s, phase=phase, course=course)
            yield from cast("Iterator[tuple[str, Expected | Refused]]", asked)
            return
        yield from super().insist(requests, expected, deadline_s=deadline_s, phase=phase, course=course, whole=whole)

    def step(
        self, requests: Mapping[str, Request], expected: type[Step], *, deadline_s: float, phase: str, course: str
    ) -> Iterator[tuple[str, Step | Refused]]:
        """One step of a masked sum, asked of each site."""
        yield from super().insist(requests, expected, deadline_s=deadline_s, phase=phase, course=course)

    def _summed(
        self,
        requests: Mapping[str, Request],
        whole: Mapping[str, Request],
        *,
        deadline_s: float,
        phase: str,
        course: CourseOf,
    ) -> Iterator[tuple[str, Reply | Refused]]:
        question = self._question(requests)
        complete = question if whole is requests else self._question(whole)
        told = course if isinstance(course, str) else next(iter(course.values()))
        for name, sites in sorted(self._cohorts_of(requests).items()):
            yield from _Sum(self, name, sites, question, complete, deadline_s, phase, told).answers()

    def _is_summed(self, requests: Mapping[str, Request]) -> bool:
        """Whether the requests are about hospitals' cases; the pooled reference of a simulation is no hospital."""
        return any(isinstance(request, Question) for request in requests.values()) and bool(
            self._hospitals & requests.keys()
        )

    def _question(self, requests: Mapping[str, Request]) -> Question:
        distinct = list({id(request): request for request in requests.values()}.values())
        questions = [self._complete(request) for request in distinct]
        first = questions[0]
        if not isinstance(first, Question):
            raise FederationError(f"{type(first).__name__} is not summed with questions about cases")
        if len(questions) > 1 and len({message_digest(question) for question in questions}) > 1:
            raise FederationError("sites were to be asked different questions, whose answers do not add up")
        return first

    def _cohorts_of(self, requests: Mapping[str, Request]) -> dict[str, tuple[str, ...]]:
        asked = {name: sites for name, sites in self._cohorts.items() if requests.keys() & set(sites)}
        beside = sorted(requests.keys() ^ {site for sites in asked.values() for site in sites})
        if beside:
            raise FederationError(f"a sum is over a whole cohort; {', '.join(beside)} would be left out or added")
        return asked


class _Sum:
    """One question to one cohort: sessions until one gives a sum, or the sites that are left are too few."""

    def __init__(
        self,
        conversation: SecureConversation,
        name: str,
        cohort: tuple[str, ...],
        question: Question,
        whole: Question,
        deadline_s: float,
        phase: str,
        course: str,
    ) -> None:
        self._conversation = conversation
        self._study = conversation.study
        self._name = name
        self._cohort = cohort
        self._question = question
        self._whole = whole
        self._grid: SharedGrid | None = None
        if isinstance(whole, Train):
            self._grid = shared_grid_of(self._study, whole)
        self._deadline_s = deadline_s
        self._phase = phase
        self._course = course
        self._refused: dict[str, Refused] = {}
        self._spoilers: dict[str, Refused] = {}

    def answers(self) -> Iterator[tuple[str, Reply | Refused]]:
        """The refusals of sites that are not in the sum, and the sum, if there is one."""
        merged: Reply | None = None
        for attempt in range(1, ATTEMPTS + 1):
            self._refused = dict(self._spoilers)
            try:
                merged = self._session()
                break
            except FederationError as error:
                self._conversation.journal.write("note", text=f"{self._phase}, sum {attempt} of {self._name}: {error}")
                if self._is_base_absent():
                    self._question = self._whole
                elif not self._may_differ():
                    break
        yield from sorted(self._refused.items())
        if merged is not None:
            yield self._name, merged
        elif not self._refused:
            yield self._name, Refused(self._name, str(Code.FEDERATION), type(self._question).__name__)

    def _may_differ(self) -> bool:
        """Whether another session may go better: where the only sites missing were silent, or had been restarted."""
        lasting = {refused.code for refused in self._refused.values()} - {str(Code.SITE_SILENT), str(Code.PRIVACY)}
        return not lasting

    def _is_base_absent(self) -> bool:
        """Whether a site lacks the model that the question's difference starts from; all are sent the whole then."""
        absent = any(refused.code == Code.BASE_ABSENT for refused in self._refused.values())
        return absent and self._question is not self._whole

    def _session(self) -> Reply:
        """All five steps.

        Raises
        ------
        FederationError
            If too few sites are left at any of them.
        """
        settings = self._study.privacy.secure_aggregation
        assert settings is not None  # else there is no such conversation
        session, digest = secrets.token_hex(16), self._conversation.study_digest
        asked = message_digest(self._question)
        terms = Terms(digest, session, asked, self._cohort, settings.least(len(self._cohort)))
        server = MaskingServer(terms)
        begin = AdvertiseKeys(digest, session, asked, self._cohort)
        invited = [site for site in self._cohort if site not in self._spoilers]
        roster = server.open(dict(self._step(dict.fromkeys(invited, begin), KeysAdvertised)))
        self._blame(server)
        share = ShareKeys(digest, session, roster)
        shared = dict(self._step(dict.fromkeys([entry.site for entry in roster], share), SharesSealed))
        sharers = server.route(shared)
        self._blame(server)
        plan = sum_plan(self._study, self._cohort)
        layout = self._collect(server, MaskedInput(digest, session, self._question, sharers), plan)
        included = server.included
        self._require_enough(included)
        checks = {s: ConsistencyCheck(digest, session, included, server.sealed_for(s)) for s in included}
        signed = {s: r for s, r in self._step(checks, Consistent, in_sum=True) if is_octets(r.signature)}
        self._require_openable(server.unopenable({site: reply.unopened for site, reply in signed.items()}))
        signatures = {site: reply.signature for site, reply in signed.items()}
        unmask = Unmask(digest, session, signatures)
        for site, reply in self._step(dict.fromkeys(signatures, unmask), Unmasked, in_sum=True):
            server.collect(site, reply)
        total = server.total()
        self._tell_faults(server)
        self._conversation.journal.write(
            "summed", phase=self._phase, request=type(self._question).__name__, sum=self._name, sites=",".join(included)
        )
        try:
            return from_words(self._whole, layout, total, plan, n_included=len(included), grid=self._grid)
        except (MessageError, ValueError) as error:
            raise FederationError(f"the sum cannot be read: {error}") from error

    def _collect(self, server: MaskingServer, request: MaskedInput, plan: SumPlan) -> Mapping[str, str]:
        """Add up masked words as they come; the layout that most sites have."""
        for site, reply in self._step(dict.fromkeys(request.sharers, request), MaskedValues):
            try:
                words = _words(reply)
                require_layout(self._whole, reply.layout, words, plan, grid=self._grid)
                server.add(site, words, layout=tuple(reply.layout.items()))
            except (MessageError, PrivacyError) as error:
                self._refuse(site, Code.MESSAGE, str(error))
        if self._is_base_absent():
            raise FederationError("a site does not hold the model that the round starts from; all are sent the whole")
        layout = dict(server.settle())
        self._blame(server)
        return layout

    def _step(
        self, requests: Mapping[str, Request], expected: type[Step], *, in_sum: bool = False
    ) -> Iterator[tuple[str, Step]]:
        """The replies of one step; who refuses drops out, or is in the sum already and only does not help unmask it."""
        heard = self._conversation.step(
            requests, expected, deadline_s=self._deadline_s, phase=self._phase, course=self._course
        )
        for site, reply in heard:
            if not isinstance(reply, Refused):
                yield site, reply
            elif not in_sum:
                self._refused[site] = reply

    def _require_enough(self, included: tuple[str, ...]) -> None:
        """A statistic needs every site, a round its quorum: as without masks."""
        needed = 0
        if isinstance(self._question, AskStatistic):
            needed = len(self._cohort)
        elif isinstance(self._question, Train):
            needed = self._study.federated.quorum or len(self._cohort)
        if len(included) < needed:
            missing = ", ".join(sorted(set(self._cohort) - set(included)))
            raise FederationError(f"{len(included)} sites sent masked words, {needed} are needed; without {missing}")

    def _require_openable(self, owners: tuple[str, ...]) -> None:
        """End the session where a mask could not be taken off, while no site is bound to a sum yet."""
        for site in owners:
            self._spoilers[site] = Refused(site, str(Code.PRIVACY), type(self._question).__name__)
        if owners:
            raise FederationError(f"too few could open what {', '.join(owners)} sealed: the next sum is without")

    def _blame(self, server: MaskingServer) -> None:
        for site, reason in server.faults.items():
            if site not in self._refused:
                self._refuse(site, Code.PRIVACY, reason)

    def _tell_faults(self, server: MaskingServer) -> None:
        for reason in server.faults.values():
            self._conversation.journal.write("note", text=f"{self._phase}, sum of {self._name}: {reason}")

    def _refuse(self, site: str, code: Code, reason: str) -> None:
        self._refused[site] = Refused(site, str(code), type(self._question).__name__)
        self._conversation.journal.write("note", text=f"{self._phase}, sum of {self._name}: {site} {reason}")


def _words(reply: MaskedValues) -> MaskWords:
    """The words of a reply; MessageError where they are none."""
    wide, narrow = reply.wide, reply.narrow
    if wide.dtype != np.uint64 or narrow.dtype not in (np.uint16, np.uint32) or (wide.ndim, narrow.ndim) != (1, 1):
        raise MessageError(f"masked words came as {wide.dtype} and {narrow.dtype}")
    return MaskWords(wide.astype(np.uint64, copy=False), cast("npt.NDArray[np.unsignedinteger]", narrow))
