"""`Site.answer(request)`: one short method a request. The only way from the patients' data to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from shutil import rmtree
from threading import RLock
from time import perf_counter

from client.draw_secret import draw_secret
from client.exchange import residuals_of
from client.governance import Gate
from client.prepared_study import NONE_LEARNED, PreparedStudy
from client.refusals import Refusals, is_told
from client.side_tables import SideTable
from client.study_at_site import StudyAtSite
from common.config.loading import error_code
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import FedradError, MessageError, StateError
from common.journal import JsonLines
from common.messages import (
    AskStatistic,
    Done,
    Finish,
    Hello,
    Landmarks,
    MaskingRequest,
    Prepare,
    Refusal,
    Reply,
    Request,
    Train,
    Welcome,
)
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
    """

    def __init__(self, config: SiteConfig, studies: Sequence[StudyConfig], *, secret: str | None = None) -> None:
        self.config = config
        self.log = JsonLines(config.state / "log.jsonl")
        self.gate = Gate(config, studies)
        self._refusals = Refusals()
        self._opened: dict[str, PreparedStudy] = {}
        self._secret = draw_secret(config.state) if secret is None else secret
        self._one_at_a_time = RLock()

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
                    self.gate.release(request, reply, seconds=perf_counter() - started)
                except FedradError as error:
                    return self._refused(request, "refused", error, str(error))
                except Exception as error:  # noqa: BLE001 - whatever a library raises, its text must not leave the site
                    return self._refused(request, "failed", error, f"{type(error).__name__}: {error}")
            except StateError as error:  # a log cannot be written
                return Refusal(error.code)
            return reply

    def opened(self, study_digest: str, landmarks: Landmarks = NONE_LEARNED) -> StudyAtSite:
        """An approved study on this site's cases, for those who stand inside the hospital."""
        with self._one_at_a_time:
            return self._approved(study_digest).opened(landmarks)

    def side_table(self, study_digest: str, table: str, landmarks: Landmarks = NONE_LEARNED) -> SideTable:
        """As `opened`, for a table beside the training table."""
        with self._one_at_a_time:
            return self._approved(study_digest).side_table(table, landmarks)

    def close(self) -> None:
        """End the processes of studies that are still being prepared."""
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
        if isinstance(request, MaskingRequest):
            raise MessageError("this study does not add up its answers under masks")
        if isinstance(request, Prepare):
            return study.answer_prepare(request)
        if isinstance(request, AskStatistic):
            return study.statistic(request)
        if isinstance(request, Train):
            return study.train(request)
        return study.opened(request.landmarks).evaluate(request)

    def _approved(self, study_digest: str) -> PreparedStudy:
        study = self.gate.require_approved(study_digest)
        if study_digest not in self._opened:
            self._opened[study_digest] = PreparedStudy(study, self.config, self.log, secret=self._secret)
        return self._opened[study_digest]

    def _hello(self, request: Hello) -> Welcome:
        self._approved(request.study_digest)
        return Welcome(self.config.site, versions())

    def _finish(self, request: Finish) -> Done:
        study = self._opened.pop(request.study_digest, None)
        if study is not None:
            study.close()
        rmtree(residuals_of(self.config.state, request.study_digest), ignore_errors=True)
        return Done()
