"""`Site.answer(request)`: one short method a request. The only way from the patients' data to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from time import perf_counter

from client.draw_secret import draw_secret
from client.prepared_study import NONE_LEARNED, PreparedStudy
from client.side_tables import SideTable
from client.study_at_site import StudyAtSite
from common.codec import encode, encoded_size
from common.config.loading import digest, error_code
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, FedradError, GateError, MessageError, StateError
from common.journal import JsonLines
from common.messages import (
    SCHEMA_VERSION,
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


class Site:
    """A hospital's answers to the studies that it approved, one at a time.

    Parameters
    ----------
    config : SiteConfig
    studies : sequence of StudyConfig
        What this hospital agreed to; requests of any other study are refused.
    secret : str, optional
        Decides which cases a draw holds; the hospital's own where it is not given. Simulations give an empty one.
    """

    def __init__(self, config: SiteConfig, studies: Sequence[StudyConfig], *, secret: str | None = None) -> None:
        self.config = config
        self.log = JsonLines(config.state / "log.jsonl")
        self.outbox = JsonLines(config.state / "outbox.jsonl")
        self._studies = {digest(study): study for study in studies}
        self._opened: dict[str, PreparedStudy] = {}
        self._secret = draw_secret(config.state) if secret is None else secret
        self._one_at_a_time = RLock()

    def answer(self, request: Request) -> Reply:
        """The reply to a request; a failure becomes a `Refusal` with its code, and its sentence stays in the log.

        Nothing leaves that the outbox does not record: where it cannot be written, the reply is a refusal.
        """
        started = perf_counter()
        with self._one_at_a_time:
            reply = self._logged_answer(request)
            try:
                self._record(request, reply, perf_counter() - started)
            except StateError as error:
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

    def _logged_answer(self, request: Request) -> Reply:
        name = type(request).__name__
        try:
            try:
                return self._answer(request)
            except FedradError as error:
                self.log.write("refused", request=name, code=error.code, reason=str(error))
                return Refusal(error.code)
            except Exception as error:  # noqa: BLE001 - whatever a library raises, its text must not leave the site
                self.log.write("failed", request=name, reason=f"{type(error).__name__}: {error}")
                return Refusal(error_code(error))
        except StateError as error:  # the log itself cannot be written
            return Refusal(error.code)

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
            return study.opened(request.landmarks).train(request)
        return study.opened(request.landmarks).evaluate(request)

    def _approved(self, study_digest: str) -> PreparedStudy:
        study = self._require_approval(study_digest)
        if study_digest not in self._opened:
            self._opened[study_digest] = PreparedStudy(study, self.config, self.log, secret=self._secret)
        return self._opened[study_digest]

    def _require_approval(self, study_digest: str) -> StudyConfig:
        study = self._studies.get(study_digest)
        if study is None:
            known = ", ".join(f"{study.name} {key[:12]}" for key, study in self._studies.items())
            reason = f"study {study_digest[:12]} is not approved here; approved: {known}"
            raise GateError(reason, code=Code.STUDY_NOT_APPROVED)
        return study

    def _hello(self, request: Hello) -> Welcome:
        """Versions first: with another version the same study file may have another digest."""
        own = versions() | {"message schema": str(SCHEMA_VERSION)}
        theirs = {**request.versions, "message schema": str(request.schema_version)}
        differing = [
            f"{name} {own.get(name, 'absent')} here, {theirs.get(name, 'absent')} at the coordinator"
            for name in sorted(own.keys() | theirs.keys())
            if own.get(name) != theirs.get(name)
        ]
        if differing:
            raise GateError("; ".join(differing), code=Code.VERSION_MISMATCH)
        self._approved(request.study_digest)
        return Welcome(self.config.site, versions())

    def _finish(self, request: Finish) -> Done:
        self._require_approval(request.study_digest)
        study = self._opened.pop(request.study_digest, None)
        if study is not None:
            study.close()
        return Done()

    def _record(self, request: Request, reply: Reply, seconds: float) -> None:
        self.outbox.write(
            "left",
            study=request.study_digest,
            request=type(request).__name__,
            reply=type(reply).__name__,
            code=reply.code if isinstance(reply, Refusal) else "",
            bytes=encoded_size(encode(reply)),
            seconds=round(seconds, 3),
        )
