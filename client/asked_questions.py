"""What was asked of one study so far, and how much more this hospital allows.

Distinct questions are counted, by what they are about: the answer to a question that is asked again is the same again
and tells nothing new, while the answers to many crafted models or statistics can be subtracted from one another. The
counts are those of the audit log (`client.audit_log`): they outlive every crash, and nobody resets them unseen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from common.arrays import Parameters
from common.codec import encode
from common.config.gate import GateConfig
from common.config.study import StudyConfig
from common.errors import Code, GateError
from common.messages import AskStatistic, Difference, Evaluate, Landmarks, MaskedInput, Prepare, Request, Train

SELDOM = ("Hello", "Finish")
"""Requests without a question that a run makes once."""

OFTEN = 100
"""So many times more often than those, and than one question, a site may be asked how far its preparation is."""


@dataclass(frozen=True)
class Question:
    """A request as it is counted.

    Parameters
    ----------
    about : str
        What it is about: ``train MODEL FOLD ROUND``, ``evaluate MODEL FOLD SPLIT``, ``statistic TABLE FOLD``, or the
        request's kind.
    sha256 : str
        Of the whole request; equal for requests with the same answer.
    landmarks : str
        SHA-256 of the landmarks that it works with; empty without any.
    """

    about: str
    sha256: str
    landmarks: str = ""

    @property
    def is_step(self) -> bool:
        """No question about cases, but a step on the way to one, of which there are many."""
        return self.about == self.sha256 and self.about not in SELDOM


@dataclass
class AskedQuestions:
    """Counts of one study."""

    distinct: dict[str, set[str]] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)

    def add(self, question: Question) -> None:
        self.distinct.setdefault(question.about, set()).add(question.sha256)
        self.times[question.sha256] += 1
        if question.landmarks:
            self.distinct.setdefault("landmarks", set()).add(question.landmarks)

    def require_allowed(self, question: Question, gate: GateConfig, study: StudyConfig) -> None:
        """Refuse a question that is one too many.

        Raises
        ------
        GateError
            Code ``gate_limit``.
        """
        allowed = gate.max_repeats * (OFTEN if question.is_step else 1)
        if self.times[question.sha256] >= allowed:
            raise GateError(
                f"{question.about}: asked {self.times[question.sha256]} times already, allowed are {allowed} "
                f"(gate.max_repeats = {gate.max_repeats})",
                code=Code.GATE_LIMIT,
            )
        self._require_distinct(question.about, question.sha256, gate, study)
        if question.landmarks:
            self._require_distinct("landmarks", question.landmarks, gate, study)

    def _require_distinct(self, about: str, sha256: str, gate: GateConfig, study: StudyConfig) -> None:
        allowed, setting = _allowed(about, gate, study)
        asked = self.distinct.get(about, set())
        if sha256 not in asked and len(asked) >= allowed:
            raise GateError(
                f"{about}: {len(asked)} different questions were asked, allowed are {allowed} ({setting})",
                code=Code.GATE_LIMIT,
            )


def about_cases(request: Request) -> Request:
    """The question that a request asks; one that is to be answered in masked words is its ``request``."""
    return request.request if isinstance(request, MaskedInput) else request


def question_of(request: Request) -> Question:
    """How a request is counted."""
    request = about_cases(request)
    landmarks = "" if isinstance(request, Prepare) and not request.landmarks else _landmarks(request)
    match request:
        case Train(model=model, fold=fold, round_number=number):
            return Question(f"train {model} {fold} {number}", request_sha256(_by_its_model(request)), landmarks)
        case Evaluate(model=model, fold=fold, split=split):
            return Question(f"evaluate {model} {fold} {split}", request_sha256(request), landmarks)
        case AskStatistic(table=table, fold=fold):
            return Question(f"statistic {table} {fold}", request_sha256(request), landmarks)
        case Prepare(table=table):
            return Question(f"Prepare {table}", f"Prepare {table}", landmarks)
    name = type(request).__name__
    return Question(name, name, landmarks)


def _by_its_model(request: Train) -> Train:
    """The request with the digest of its model alone: whole or as a difference, the question is the same."""
    result = request.difference[0].result if request.difference else request.parameters.digest()
    named = Difference("", result, np.zeros(0, np.uint8))
    return replace(request, parameters=Parameters({}), difference=(named,))


def request_sha256(request: Request) -> str:
    """SHA-256 of a request's header and arrays."""
    header, arrays = encode(request)
    sha = hashlib.sha256(header)
    for array in arrays:
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _landmarks(request: Request) -> str:
    found: Landmarks = getattr(request, "landmarks", {})
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest() if found else ""


def _allowed(about: str, gate: GateConfig, study: StudyConfig) -> tuple[int, str]:
    """How many different questions there may be, and the setting that says so.

    In one run, a hospital trains a model for the federated course and for its own; each model of these courses, of
    every hospital's own, and of a pooled one where a simulation has it, is evaluated once.
    """
    courses = (1 + study.local_only) * gate.runs
    match about.split():
        case ["train", *_]:
            return courses, f"gate.runs = {gate.runs}"
        case ["evaluate", *_]:
            return (2 + study.n_training) * gate.runs, f"gate.runs = {gate.runs}"
        case ["landmarks"]:
            return gate.runs, f"gate.runs = {gate.runs}"
        case ["statistic", *_]:
            return gate.max_statistics, f"gate.max_statistics = {gate.max_statistics}"
    # no questions: `times` bounds them
    return gate.max_repeats, f"gate.max_repeats = {gate.max_repeats}"
