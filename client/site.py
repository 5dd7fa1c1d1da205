"""`Site.answer(request)`: one short method a request. The only way from the patients' data to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from shutil import rmtree
from threading import RLock
from time import perf_counter

from client.credentials import Credentials, load_credentials
from client.draw_secret import draw_secret
from client.exchange import residuals_of
from client.governance import Gate
from client.masked_sums import MaskedSums
from client.prepared_study import NONE_LEARNED, PreparedStudy
from client.refusals import Refusals, is_told
from client.side_tables import SideTable
from client.study_at_site import StudyAtSite
from common.config.loading import error_code
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import FedradError, PrivacyError, StateError
from common.journal import JsonLines
from common.messages import (
    AskStatistic,
    Done,
    Finish,
    Hello,
    Landmarks,
    MaskingRequest,
    Prepare,
    Question,
    Refusal,
    Reply,
    Request,
    Train,
    Welcome,
)
from common.privacy.contribution import Summable
from common.version import versions

LONGEST_REASON = 1000
"""Characters of a sentence in the log: it may quote what the coordinator sent."""


class Site:
    """A hospital's answers to the studies that it approved, one at a time.

    Parameters
    ----------
    config : SiteConfig
    studies : sequence of StudyConfig
        Those that the site file lists; requests of any other study are refused (`client.governance`).
    secret : str, optional
        Decides which cases a draw holds; the hospital's own where it is not given. Simulations give an empty one.
    credentials : Credentials, optional
        For masked sums; those that ``site.toml`` names where they are not given.
    lasting : bool
        Whether this object lives from one message to the next, as the keys of a masked sum must.
    """

    def __init__(
        self,
        config: SiteConfig,
        studies: Sequence[StudyConfig],
        *,
        secret: str | None = None,
        credentials: Credentials | None = None,
        lasting: bool = True,
    ) -> None:
        self.config = config
        self.log = JsonLines(config.state / "log.jsonl")
        self.gate = Gate(config, studies)
        self._refusals = Refusals()
        self._opened: dict[str, PreparedStudy] = {}
        self._secret = draw_secret(config.state) if secret is None else secret
        self._one_at_a_time = RLock()
        self._credentials = credentials
        self._masked = MaskedSums(config, self.gate.sums, self._own_credentials, lasting=lasting)

    def answer(self, request: Request) -> Reply:
        """The reply to a request; a failure becomes a `Refusal` with its code, and its sentence stays in the log.

        Nothing leaves that the gate does not let out and its audit log does not record.
        """
        started = perf_counter()
        with self._one_at_a_time:
            try:
                try:
                    self.gate.admit(request)
                    reply = self._answer(request)
                    opened = self._opened.get(request.study_digest)
                    about = opened.case_list if opened else ""
                    self.gate.release(request, reply, seconds=perf_counter() - started, case_list=about)
                except FedradError as error:
                    return self._refused(request, "refused", error, str(error))
                except Exception as error:  # noqa: BLE001 - whatever a library raises, its text must not leave the site
                    return self._refused(request, "failed", error, f"{type(error).__name__}: {error}")
            except StateError as error:  # a log cannot be written
                return Refusal(error.code)
            return reply

    def note_malformed(self, error: FedradError) -> None:
        """Write down that something arrived which is no request at all; its sender got a code.

        Where the logs cannot be written the answer was that code all the same.
        """
        with self._one_at_a_time, suppress(StateError):
            times = self._refusals.count("none", error.code)
            if is_told(times):
                self.log.write("malformed", code=error.code, reason=str(error)[:LONGEST_REASON], times=times)
                self.gate.log.append("refused", study="none", request="none", code=error.code, times=times)

    def opened(self, study_digest: str, landmarks: Landmarks = NONE_LEARNED) -> StudyAtSite:
        """An approved study on this site's cases, for those who stand inside the hospital."""
        with self._one_at_a_time:
            return self._approved(study_digest).opened(landmarks)

    def side_table(self, study_digest: str, table: str, landmarks: Landmarks = NONE_LEARNED) -> SideTable:
        """As `opened`, for a table beside the training table."""
        with self._one_at_a_time:
            return self._approved(study_digest).side_table(table, landmarks)

    def close(self) -> None:
        """End the processes of studies that are still being prepared, and the masked sum that is under way."""
        self._masked.close()
        for study in self._opened.values():
            study.close()
        self._opened.clear()

    def _refused(self, request: Request, event: str, error: Exception, reason: str) -> Refusal:
        name, code = type(request).__name__, error_code(error)
        times = self._refusals.count(name, code)
        if is_told(times):
            self.log.write(event, request=name, code=code, reason=reason[:LONGEST_REASON], times=times)
            self.gate.note_refusal(request, code, times=times)
        return Refusal(code)

    def _answer(self, request: Request) -> Reply:
        if isinstance(request, Hello):
            return self._hello(request)
        if isinstance(request, Finish):
            return self._finish(request)
        study = self._approved(request.study_digest)
        if isinstance(request, Prepare):
            return study.answer_prepare(request)
        if isinstance(request, MaskingRequest):
            return self._masked.answer(request, study.study, lambda question: self._to_be_masked(study, question))
        if study.study.privacy.secure_aggregation is not None:
            raise PrivacyError(f"answers of this study leave under masks; {type(request).__name__} asks for a bare one")
        return self._in_the_clear(study, request)

    def _to_be_masked(self, study: PreparedStudy, question: Question) -> Summable:
        """The gate sees masked words alone, so what it asks of an answer is asked here."""
        reply = self._in_the_clear(study, question)
        self.gate.require_enough_cases(question.study_digest, reply)
        return reply

    def _in_the_clear(self, study: PreparedStudy, question: Question) -> Summable:
        if isinstance(question, AskStatistic):
            return study.statistic(question)
        if isinstance(question, Train):
            return study.train(question)
        return study.opened(question.landmarks).evaluate(question)

    def _own_credentials(self) -> Credentials:
        if self._credentials is None:
            self._credentials = load_credentials(self.config)
        return self._credentials

    def _approved(self, study_digest: str) -> PreparedStudy:
        study = self.gate.require_approved(study_digest)
        if study_digest not in self._opened:
            self._opened[study_digest] = PreparedStudy(
                study, self.config, self.log, secret=self._secret, spend=partial(self.gate.reserve, study_digest)
            )
        return self._opened[study_digest]

    def _hello(self, request: Hello) -> Welcome:
        self._masked.require_possible(self._approved(request.study_digest).study)
        return Welcome(self.config.site, versions())

    def _finish(self, request: Finish) -> Done:
        self._masked.finish(request.study_digest, completed=request.outcome == "completed")
        study = self._opened.pop(request.study_digest, None)
        if study is not None:
            study.close()
        rmtree(residuals_of(self.config.state, request.study_digest), ignore_errors=True)
        return Done()
