"""The hospital's own privacy budget, across all studies: an append-only file on its disk.

A cost is reserved *before* the training that it pays for: the line is on the disk before a gradient is computed, so a
crash can lose an answer, never a spent budget. What is asked again is paid again, also after a crash: the noise is
drawn anew, and two answers with different noise tell more than one. Only an answer whose kept bytes are sent once more
costs nothing, and then nothing is reserved.

Each line holds the SHA-256 of the line before it, and a second file the number of lines and the last line's hash: an
edited line, and a file that was put back to an older state, are found before anything is trained. Whoever can write
both files can forge both; the audit log of the hospital holds the hash as well (`PrivacyBudget.head`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.config.site import SiteConfig
from common.errors import Code, GateError, PrivacyError, StateError
from common.files import write_atomic
from common.messages import PrivacyEvent
from common.privacy.ledger import Accountant, epsilon, event_from_json, event_to_json, merged, would_exceed

FILE = "budget.jsonl"
HEAD_FILE = "budget.head"
LOCK_FILE = "budget.lock"
UNLIMITED_DELTA = 1e-6
"""For the epsilon that is told where the hospital set no budget."""

BEGINNING = "0" * 64
"""Stands for the line before the first."""


@dataclass(frozen=True)
class Reservation:
    """One line of the file.

    Parameters
    ----------
    time : str
        UTC, ISO 8601.
    study_digest : str
    events : tuple of PrivacyEvent
    """

    time: str
    study_digest: str
    events: tuple[PrivacyEvent, ...]


class PrivacyBudget:
    """What this hospital is willing to spend on its cases, and what is spent.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    epsilon, delta : float
        The budget, for all studies together, for as long as the file lives.

    Raises
    ------
    StateError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path, epsilon: float, delta: float) -> None:
        self.folder = folder
        self.budget_epsilon = epsilon
        self.delta = delta
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot write {folder}: {error.strerror or error}") from error

    @classmethod
    def of(cls, config: SiteConfig) -> PrivacyBudget:
        """The budget that a hospital's ``site.toml`` sets; without one, losses are counted and not limited."""
        limit = config.gate.budget
        epsilon, delta = (limit.epsilon, limit.delta) if limit else (math.inf, UNLIMITED_DELTA)
        return cls(config.state / "budget", epsilon, delta)

    def reserve(self, study_digest: str, events: Sequence[PrivacyEvent]) -> None:
        """Write the cost of what is about to be computed.

        Raises
        ------
        GateError
            With code `Code.BUDGET_EXCEEDED`, where the cost is more than what is left; nothing is written.
        PrivacyError
            Where an event cannot be accounted for.
        StateError
            Where the file was changed by someone else, is damaged, or cannot be written.
        """
        with self._locked():
            lines = self._lines()
            spent = [event for line in lines for event in _reservation(line, self.folder).events]
            if would_exceed(spent, events, target_epsilon=self.budget_epsilon, delta=self.delta):
                before, after = (epsilon(part, self.delta) for part in (spent, [*spent, *events]))
                raise GateError(
                    f"study {study_digest[:12]} would bring epsilon from {before:.3g} to {after:.3g} at delta "
                    f"{self.delta:g}, this hospital's budget is {self.budget_epsilon:g}",
                    code=Code.BUDGET_EXCEEDED,
                )
            self._append(lines, study_digest, events)

    def spent(self) -> tuple[PrivacyEvent, ...]:
        """All events that were ever reserved, those of equal noise together."""
        return merged(event for reservation in self.reservations() for event in reservation.events)

    def reservations(self) -> tuple[Reservation, ...]:
        """The file's lines in order.

        Raises
        ------
        StateError
            Where the file was changed by someone else or is damaged.
        """
        with self._locked():
            return tuple(_reservation(line, self.folder) for line in self._lines())

    def epsilon(self, accountant: Accountant = "rdp") -> float:
        """What is spent, at the budget's delta."""
        return epsilon(self.spent(), self.delta, accountant=accountant)

    def head(self, n_lines: int | None = None) -> str:
        """Number of lines and hash of the last one, or of the first ``n_lines``: what a log kept elsewhere holds
        against a file that was put back or begun anew.
        """
        with self._locked():
            return _head(self._lines()[:n_lines])

    def _append(self, lines: list[bytes], study_digest: str, events: Sequence[PrivacyEvent]) -> None:
        content = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "study": study_digest,
            "events": [event_to_json(event) for event in events],
            "previous": _hash(lines[-1]) if lines else BEGINNING,
        }
        line = json.dumps(content).encode() + b"\n"
        try:
            handle = os.open(self.folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.write(handle, line) != len(line):
                    raise StateError(f"cannot write {self.folder / FILE}: a line was cut short, the disk may be full")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StateError(f"cannot write {self.folder / FILE}: {error.strerror or error}") from error
        write_atomic(self.folder / HEAD_FILE, _head([*lines, line]).encode())  # also brings the folder to the disk

    def _lines(self) -> list[bytes]:
        """Whole lines; one that a crash cut short paid for nothing yet, and is removed."""
        path = self.folder / FILE
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines(keepends=True)
        previous = BEGINNING
        for number, line in enumerate(lines, start=1):
            if _previous_of(line) != previous:
                raise StateError(f"{path}: line {number} does not follow from the line before it: the file was changed")
            previous = _hash(line)
        self._require_not_rolled_back(lines)
        if whole < len(content):
            os.truncate(path, whole)
        return lines

    def _require_not_rolled_back(self, lines: list[bytes]) -> None:
        """The head is that of the file, or, after a crash between the two writes, of the file without its last line."""
        path = self.folder / HEAD_FILE
        if not path.exists():
            if len(lines) > 1:
                raise StateError(f"{path} is missing beside {len(lines)} reservations")
            return
        head = path.read_text(encoding="ascii", errors="replace")
        if head not in (_head(lines), _head(lines[:-1])):
            raise StateError(
                f"{self.folder / FILE} has {len(lines)} lines, {path.name} says {head[:40]!r}: one of them was put back"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time."""
        try:
            handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"cannot write {self.folder / LOCK_FILE}: {error.strerror or error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _reservation(line: bytes, folder: Path) -> Reservation:
    try:
        content = json.loads(line)
        events = tuple(event_from_json(entry) for entry in content["events"])
        return Reservation(str(content["time"]), str(content["study"]), events)
    except (ValueError, KeyError, TypeError, PrivacyError) as error:
        raise StateError(f"{folder / FILE} is damaged: {error}") from error


def _previous_of(line: bytes) -> str:
    try:
        return str(json.loads(line)["previous"])
    except (ValueError, KeyError, TypeError):
        return ""


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _head(lines: Sequence[bytes]) -> str:
    return f"{len(lines)} {_hash(lines[-1]) if lines else BEGINNING}\n"
