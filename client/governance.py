"""What this hospital allows: every request passes the gate before any work, every reply before it leaves.

::

    admit     stopped? kind and size? versions? study approved, and one that this hospital answers at all?
              asks within the study? within the limits?           -> "asked" in the audit log, then the work
    release   stopped? enough cases? size?                        -> "left" in the audit log, then it leaves

Whoever refuses raises a `GateError` (or another error of `common.errors`): its sentence goes into the site's log, its
code alone to the coordinator. The gate knows no way around itself: what it counts is what its audit log holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from client.agreed_terms import promises_privacy, require_same_versions, require_within
from client.approvals import Approvals
from client.asked_questions import AskedQuestions, Question, about_cases, question_of
from client.audit_chain import Entry
from client.audit_log import AuditFiles, AuditLog
from client.kill_switch import require_running
from client.outbound import centring_faults
from client.privacy_budget import PrivacyBudget
from client.site_key import SiteKey
from client.sum_record import SumsInLog
from common.codec import encode, encoded_size
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, GateError, MessageError, StateError
from common.masking_messages import MaskedValues
from common.messages import (
    ANSWER_OF,
    Done,
    EvaluationSums,
    Hello,
    LocalUpdate,
    PrivacyEvent,
    Reply,
    Request,
    StatisticSums,
    Welcome,
)

MEGABYTE = 10**6
ABOUT_CASES = (StatisticSums, LocalUpdate, EvaluationSums, MaskedValues)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Gate:
    """The rules of one hospital, and its audit log.

    Parameters
    ----------
    config : SiteConfig
        A hospital with a coordinator answers only studies that were approved in its audit log. Without one, nobody
        outside can ask, and the caller's word counts: a simulation.
    studies : sequence of StudyConfig
        Those that the site file lists.

    Raises
    ------
    StateError
        If the audit log was changed or rolled back, or a key cannot be read.
    """

    def __init__(self, config: SiteConfig, studies: Sequence[StudyConfig]) -> None:
        self.config = config
        self.rules = config.gate
        key = SiteKey.of(config)
        self.approvals = Approvals(config.site, key)
        self._studies = {digest(study): study for study in studies}
        self._asked: dict[str, AskedQuestions] = {}
        self._heads: dict[str, str] = {}
        self._case_lists: dict[str, str] = {}
        self.budget = PrivacyBudget.of(config)
        self.sums = SumsInLog()
        self.log = AuditLog(AuditFiles.of(config.state, self.rules.head), key, on_entry=self._take)
        self.sums.kept_in(self.log)

    def admit(self, request: Request) -> None:
        """Let a request in, and count it.

        Raises
        ------
        GateError, MessageError
            Which rule refuses it.
        """
        self.log.catch_up()  # an approval may have been revoked by another process
        require_running(self.config.state)
        size = self._require_kind_and_size(request)
        if isinstance(request, Hello):
            require_same_versions(request)
        study = self.require_approved(request.study_digest)
        self._require_same_cases(request.study_digest)
        self._require_rounds(study)
        if self.rules.require_privacy and not promises_privacy(study):
            raise GateError(f"study {study.name}: not all that leaves is differentially private (gate.require_privacy)")
        for fault in centring_faults(study, self.rules.updates):
            raise GateError(f"study {study.name}: {fault}")
        inner = about_cases(request)
        if inner.study_digest != request.study_digest:
            raise MessageError("a question of one study comes under the name of another")
        require_within(inner, study, self.rules.statistics)
        question = question_of(request)
        asked = self._asked.setdefault(request.study_digest, AskedQuestions())
        asked.require_allowed(question, self.rules, study)
        self.log.append(
            "asked",
            study=request.study_digest,
            request=type(request).__name__,
            about=question.about,
            question=question.sha256,
            landmarks=question.landmarks,
            bytes=size,
        )

    def release(self, request: Request, reply: Reply, *, seconds: float, case_list: str = "") -> None:
        """Let a reply out, and write down that it left.

        Parameters
        ----------
        case_list : str
            SHA-256 of the manifest that the reply is about, which may have changed on the disk since it was read.

        Raises
        ------
        GateError
            Which rule keeps it here.
        StateError
            If it cannot be written down.
        """
        require_running(self.config.state)
        if type(reply) is not ANSWER_OF[type(request)]:
            raise GateError(f"a {type(reply).__name__} is no answer to a {type(request).__name__}")
        self.require_enough_cases(request.study_digest, reply)
        header, arrays = encoded = encode(reply)
        size = encoded_size(encoded)
        if size > self.rules.max_reply_mb * MEGABYTE:
            raise GateError(f"reply of {size} bytes, allowed are {self.rules.max_reply_mb:g} MB (gate.max_reply_mb)")
        sha = hashlib.sha256(header)
        for array in arrays:
            sha.update(np.ascontiguousarray(array).data)
        self.log.append(
            "left",
            durable=not isinstance(reply, Welcome | Done),
            study=request.study_digest,
            request=type(request).__name__,
            about=question_of(request).about,
            reply=type(reply).__name__,
            bytes=size,
            sha256=sha.hexdigest(),
            cases=getattr(reply, "n_cases", None) or 0,
            case_list=case_list if isinstance(reply, ABOUT_CASES) else "",
            seconds=round(seconds, 3),
        )

    def reserve(self, study_digest: str, events: Sequence[PrivacyEvent], own: PrivacyBudget | None = None) -> None:
        """Spend of this hospital's privacy budget, before anything is computed.

        Parameters
        ----------
        events : sequence of PrivacyEvent
            What the answer will cost; none where the study promises no differential privacy.
        own : PrivacyBudget, optional
            The study's own target at this hospital. It is asked first: who asks beyond it must not use up what the
            hospital has for other studies.

        Raises
        ------
        GateError
            Code ``budget_exceeded``: more than is left; nothing was spent.
        StateError
            If a ledger's file was changed or put back, or cannot be written.
        """
        if not events:
            return
        ledgers = [self.budget] if own is None else [own, self.budget]
        for ledger in ledgers:
            self._require_same_ledger(ledger)
        for ledger in ledgers:
            ledger.reserve(study_digest, events)
        values = {"budget_head": self.budget.head().strip()}
        if own is not None:
            values |= {"own_ledger": self._name_of(own), "own_head": own.head().strip()}
        self.log.append("spent", durable=True, study=study_digest, epsilon=self.budget.epsilon(), **values)

    def note_refusal(self, request: Request, code: str, *, times: int) -> None:
        """Write down that a request was refused, for the so many-th time.

        Raises
        ------
        StateError
            If it cannot be written down.
        """
        study = request.study_digest if _DIGEST.fullmatch(request.study_digest) else "no digest"
        self.log.append("refused", study=study, request=type(request).__name__, code=code, times=times)

    def require_approved(self, study_digest: str) -> StudyConfig:
        """The study of a digest.

        Raises
        ------
        GateError
            Code ``study_not_approved``, where the site file does not list it or no approval holds.
        """
        study = self._studies.get(study_digest)
        if study is None:
            known = ", ".join(f"{study.name} {key[:12]}" for key, study in self._studies.items())
            reason = f"study {study_digest[:12]} is not one of this hospital's; they are: {known}"
            raise GateError(reason, code=Code.STUDY_NOT_APPROVED)
        if self.config.coordinator is not None:
            self.approvals.require(study_digest)
        return study

    def minimum_cases(self, study_digest: str) -> int:
        """The larger of the site's and the study's minimum."""
        return max(self.config.minimum_cases, self._studies[study_digest].privacy.minimum_cases)

    def require_enough_cases(self, study_digest: str, reply: object) -> None:
        """Refuse an answer from fewer cases than the minimum.

        An update under site-level privacy does not say of how many cases it is (it says 1); they were counted before
        it was trained.

        Raises
        ------
        GateError
            Code ``small_cell``.
        """
        withheld = isinstance(reply, LocalUpdate) and self._studies[study_digest].privacy.site_level is not None
        n_cases, minimum = getattr(reply, "n_cases", None), self.minimum_cases(study_digest)
        if n_cases is not None and n_cases < minimum and not withheld:
            raise GateError(f"answer from {n_cases} cases, the minimum here is {minimum}", code=Code.SMALL_CELL)

    def _require_kind_and_size(self, request: Request) -> int:
        name = type(request).__name__
        if name not in self.rules.requests:
            raise GateError(f"requests of kind {name} are not answered here (gate.requests)")
        size = encoded_size(encode(request))
        if size > self.rules.max_request_mb * MEGABYTE:
            allowed = f"{self.rules.max_request_mb:g} MB (gate.max_request_mb)"
            raise GateError(f"{name} of {size} bytes, allowed are {allowed}")
        return size

    def _require_same_cases(self, study_digest: str) -> None:
        """Refuse to go on with another case list than that of the answers that left: their difference would be the
        cases that came or went.
        """
        answered_about = self._case_lists.get(study_digest)
        if self.config.coordinator is not None and answered_about and self._case_list() != answered_about:
            raise GateError(
                f"{self.config.manifest} changed since answers of study {study_digest[:12]} left, and the difference "
                "could tell of the cases that changed; approve the study again to go on all the same"
            )

    def _case_list(self) -> str:
        """SHA-256 of the manifest; empty where it cannot be read, which is told when the study is opened."""
        try:
            return hashlib.sha256(self.config.manifest.read_bytes()).hexdigest()
        except OSError:
            return ""

    def _require_rounds(self, study: StudyConfig) -> None:
        for entry in study.models:
            if entry.rounds > self.rules.max_rounds:
                raise GateError(
                    f"model {entry.name} of study {study.name} has {entry.rounds} rounds, allowed are "
                    f"{self.rules.max_rounds} (gate.max_rounds)"
                )

    def _name_of(self, ledger: PrivacyBudget) -> str:
        return ledger.folder.relative_to(self.config.state).as_posix()

    def _require_same_ledger(self, ledger: PrivacyBudget) -> None:
        """Refuse a ledger that was put back or written anew with both of its files: the log remembers its head."""
        noted = self._heads.get(self._name_of(ledger), "")
        n_now, n_noted = (int(text.split()[0]) if text else 0 for text in (ledger.head(), noted))
        if n_now < n_noted or (n_noted and ledger.head(n_noted).split() != noted.split()):
            raise StateError(
                f"{ledger.folder} holds {n_now} reservations, the audit log noted {n_noted}: it was put back or "
                "rewritten"
            )

    def _take(self, entry: Entry) -> None:
        """Count what the log holds: after a restart, and while another process writes."""
        self.approvals.take(entry)
        self.sums.take(entry)
        if entry["event"] == "approved":
            self._case_lists.pop(str(entry["study"]), None)
        if entry["event"] == "left" and entry.get("case_list"):
            self._case_lists[str(entry["study"])] = str(entry["case_list"])
        if entry["event"] == "spent":
            self._heads[self._name_of(self.budget)] = str(entry["budget_head"])
            if "own_ledger" in entry:
                self._heads[str(entry["own_ledger"])] = str(entry["own_head"])
        if entry["event"] == "asked":
            question = Question(entry["about"], entry["question"], entry["landmarks"])
            self._asked.setdefault(entry["study"], AskedQuestions()).add(question)
