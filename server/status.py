"""What a study is doing, read from its journal: the one source of the terminal's status, the web page and the metrics.

A journal line that is not known changes nothing, so that an older journal is read as far as it goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from common.data_flow_words import readable_bytes
from common.messages import PrivacyEvent

RECENT = 200
"""Lines of the log that are kept for the page."""

State = Literal["not started", "running", "paused", "aborted", "failed", "finished"]
Level = Literal["info", "warning", "error"]
Curve = tuple[str, str, int]
"""Model, course, fold."""


@dataclass
class SiteStatus:
    """One site's traffic so far.

    Parameters
    ----------
    awaited : str
        Phase in which it was silent and is asked again.
    codes : counter of error codes
    prepared : (done, listed)
    privacy : mapping of "training" or "statistics" to events
    """

    last_answer: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
    awaited: str = ""
    codes: Counter[str] = field(default_factory=Counter)
    prepared: tuple[int, int] | None = None
    privacy: dict[str, list[PrivacyEvent]] = field(default_factory=lambda: defaultdict(list))

    @property
    def refused(self) -> int:
        return self.codes.total()


@dataclass(frozen=True)
class LogLine:
    """A journal line in words."""

    time: str
    level: Level
    text: str


@dataclass
class StudyStatus:
    """What the journal's lines add up to.

    Parameters
    ----------
    asked : tuple of str
        Sites whose answer to the present question is not taken in yet.
    curves : mapping of (model, course, fold) to points (round, training loss)
    phase_seconds : mapping of phase to seconds, without the present one's
    """

    name: str = ""
    digest: str = ""
    state: State = "not started"
    phase: str = "not started"
    round_number: int = 0
    began: str = ""
    since: str = ""
    last: str = ""
    by: str = ""
    asked: tuple[str, ...] = ()
    sites: dict[str, SiteStatus] = field(default_factory=lambda: defaultdict(SiteStatus))
    rounds: dict[Curve, tuple[int, int, float]] = field(default_factory=dict)
    curves: dict[Curve, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    phase_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    recent: deque[LogLine] = field(default_factory=lambda: deque(maxlen=RECENT))

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> StudyStatus:
        status = cls()
        for line in lines:
            status.take(line)
        return status

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def ended(self) -> bool:
        """Nothing more will be written, unless the study is started again."""
        return self.state in ("finished", "aborted", "failed")

    def take(self, line: Mapping[str, Any]) -> None:
        """Add one journal line; lines of other kinds change nothing."""
        take = _TAKERS.get(line["event"])
        if take is not None:
            take(self, line)
        self.last = line["time"]
        told = sentence(line)
        if told is not None:
            self.recent.append(LogLine(line["time"], *told))

    def _study(self, line: Mapping[str, Any]) -> None:
        self.name, self.digest, self.state = line["name"], line["digest"], "running"
        self.began = self.began or line["time"]
        self.asked = ()

    def _asked(self, line: Mapping[str, Any]) -> None:
        self._enter(line["phase"], line["time"])
        self.round_number = line["round_number"]
        self.asked = tuple(line["sites"].split(","))

    def _answer(self, line: Mapping[str, Any]) -> None:
        self._enter(line["phase"], line["time"])
        site = self.sites[line["site"]]
        site.bytes_down += line["bytes_down"]
        site.bytes_up += line["bytes_up"]
        if line["code"]:
            site.codes[line["code"]] += 1
        if line["code"] != "site_silent":
            site.last_answer, site.awaited = line["time"], ""
        self.asked = tuple(name for name in self.asked if name != line["site"])

    def _awaited(self, line: Mapping[str, Any]) -> None:
        self.sites[line["site"]].awaited = line["phase"]

    def _preparing(self, line: Mapping[str, Any]) -> None:
        self.sites[line["site"]].prepared = (line["done"], line["listed"])

    def _privacy(self, line: Mapping[str, Any]) -> None:
        event = PrivacyEvent(line["mechanism"], line["noise_multiplier"], line["sampling_rate"], line["steps"])
        self.sites[line["site"]].privacy[line["of"]].append(event)

    def _round(self, line: Mapping[str, Any]) -> None:
        key = (line["model"], line["course"], line["fold"])
        self.rounds[key] = (line["round_number"], line["rounds"], line["train_loss"])
        self.curves[key][line["round_number"]] = line["train_loss"]

    def _paused(self, line: Mapping[str, Any]) -> None:
        self.state, self.by, self.asked = "paused", line["by"], ()

    def _resumed(self, line: Mapping[str, Any]) -> None:
        self.state, self.by = "running", line["by"]

    def _ended(self, line: Mapping[str, Any]) -> None:
        self.state, self.asked = line["event"], ()
        self.by = line.get("by", "")
        self._enter(self.state, line["time"])

    def _enter(self, phase: str, time: str) -> None:
        if phase == self.phase:
            return
        if self.since:
            self.phase_seconds[self.phase] += _seconds(self.since, time)
        self.phase, self.since, self.round_number = phase, time, 0


_TAKERS = {
    "study": StudyStatus._study,
    "asked": StudyStatus._asked,
    "answer": StudyStatus._answer,
    "awaited": StudyStatus._awaited,
    "preparing": StudyStatus._preparing,
    "privacy": StudyStatus._privacy,
    "round": StudyStatus._round,
    "paused": StudyStatus._paused,
    "resumed": StudyStatus._resumed,
    "finished": StudyStatus._ended,
    "aborted": StudyStatus._ended,
    "failed": StudyStatus._ended,
}
WISHES = {"run": "resume", "pause": "pause", "abort": "abort"}


def sentence(line: Mapping[str, Any]) -> tuple[Level, str] | None:
    """A journal line in words, and how much it matters; None for lines that only count."""
    match line["event"]:
        case "study":
            return "info", f"study {line['name']} ({line['digest'][:12]}) started with {line['sites']} sites"
        case "round":
            where = f"{line['model']}, {line['course']}" + (f", fold {line['fold'] + 1}" if line["fold"] else "")
            done = f"round {line['round_number']} of {line['rounds']}"
            return "info", f"{where}: {done} complete, {line['sites']} sites, loss {line['train_loss']:.4f}"
        case "answer" if line["code"]:
            size = readable_bytes(line["bytes_down"])
            return "warning", f"{line['site']} answered {line['request']} with {line['code']} (sent to it: {size})"
        case "awaited":
            return "warning", f"{line['site']} was silent in {line['phase']} and is asked again"
        case "note":
            return "info", str(line["text"])
        case "evaluated" | "solved":
            return "info", f"{line['model']}, {line['course']}: {line['event']}"
        case "table":
            return "info", f"{line['course']}: table learned"
        case "dropped":
            return "warning", "features that some site lacks were dropped"
        case "control":
            return "warning", f"{line['by']} asks to {WISHES[line['wish']]} the study"
        case "paused" | "resumed" | "aborted":
            return "warning", f"the study is {line['event']}" + (f" ({line['by']})" if line["by"] else "")
        case "failed":
            return "error", f"the study failed: {line['text']}"
        case "finished":
            return "info", "the study has finished"
    return None


def _seconds(start: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
