"""What a study is doing, read from its journal: phase, sites, who is awaited, how far each model is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text


@dataclass
class SiteStatus:
    """One site's traffic so far."""

    last_answer: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
    refused: int = 0
    awaited: str = ""


@dataclass
class StudyStatus:
    """What the journal's lines add up to."""

    name: str = ""
    digest: str = ""
    phase: str = "not started"
    since: str = ""
    finished: bool = False
    sites: dict[str, SiteStatus] = field(default_factory=dict)
    rounds: dict[tuple[str, str, int], tuple[int, int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> StudyStatus:
        status = cls()
        for line in lines:
            status.take(line)
        return status

    def take(self, line: Mapping[str, Any]) -> None:
        """Add one journal line; lines of other kinds change nothing."""
        event = line["event"]
        if event == "study":
            self.name, self.digest, self.finished = line["name"], line["digest"], False
        elif event == "answer":
            self._answer(line)
        elif event == "awaited":
            self.sites.setdefault(line["site"], SiteStatus()).awaited = line["phase"]
        elif event == "round":
            key = (line["model"], line["course"], line["fold"])
            self.rounds[key] = (line["round_number"], line["rounds"], line["train_loss"])
        elif event == "finished":
            self.finished, self.phase, self.since = True, "finished", line["time"]

    def _answer(self, line: Mapping[str, Any]) -> None:
        if line["phase"] != self.phase:
            self.phase, self.since = line["phase"], line["time"]
        site = self.sites.setdefault(line["site"], SiteStatus())
        site.bytes_down += line["bytes_down"]
        site.bytes_up += line["bytes_up"]
        site.refused += bool(line["code"])
        if line["code"] != "site_silent":
            site.last_answer, site.awaited = line["time"], ""


def status_view(status: StudyStatus) -> Lines:
    """The status as a person reads it in a terminal."""
    head = Text.assemble(
        ("study ", "bold"), f"{status.name} {status.digest[:12]}   ", ("phase ", "bold"), f"{status.phase}"
    )
    if status.since:
        head.append(f" since {_clock(status.since)}")
    sites = Table("site", "last answer", "waiting for it", "received", "sent", "refusals", title="sites")
    for name, site in sorted(status.sites.items()):
        down, up = _size(site.bytes_down), _size(site.bytes_up)
        sites.add_row(name, _clock(site.last_answer), site.awaited or "-", down, up, str(site.refused))
    models = Table("model", "trained by", "fold", "round", "training loss", title="training")
    for (model, course, fold), (done, total, loss) in sorted(status.rounds.items()):
        models.add_row(model, course, str(fold + 1), f"{done} of {total}", f"{loss:.4f}")
    return Lines(head, sites, models)


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S") if moment else "-"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
