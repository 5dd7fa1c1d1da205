"""`Watch`: what the coordinator's process is doing now: the study it runs, who is connected, what waits.

The web page, the metrics and the health service all look through it; it reads the journal as it grows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.journal import JsonLines
from server.checkpoint import CheckpointStore
from server.control import Order, StudyControl
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.queue import QueuedStudy, StudyQueue
from server.status import StudyStatus

Names = Callable[[], tuple[str, ...]]


class FollowedRun:
    """One study run, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = load(folder / STUDY_FILE, StudyConfig)
        self.digest = digest(self.study)
        self.journal = JsonLines(folder / JOURNAL_FILE)
        self.control = StudyControl(folder)
        self._status = StudyStatus()
        self._offset = 0
        self._cases: dict[str, dict[str, object]] = {}

    def status(self) -> StudyStatus:
        """Status up to the last whole line of the journal."""
        lines, self._offset = self.journal.read_from(self._offset)
        for line in lines:
            self._status.take(line)
        return self._status

    def order(self) -> Order:
        return self.control.order()

    def cases(self) -> dict[str, dict[str, object]]:
        """By site: ``n_listed``, ``n_usable`` and ``exclusions``; empty until the sites are prepared."""
        if not self._cases and (self.folder / "checkpoints" / "preparation.safetensors").exists():
            unit = CheckpointStore(self.folder / "checkpoints", self.digest).load("preparation")
            self._cases = dict(unit.values["sites"]) if unit is not None else {}
        return self._cases


class Watch:
    """What is going on.

    Parameters
    ----------
    connected : callable
        Names of the sites that are connected now.
    queue : StudyQueue, optional
        Where the coordinator serves one.
    """

    def __init__(self, connected: Names, queue: StudyQueue | None = None) -> None:
        self.lock = threading.RLock()
        """Held while somebody looks: pages and scrapes come from several threads."""
        self._connected = connected
        self._queue = queue
        self.run: FollowedRun | None = None

    @property
    def has_queue(self) -> bool:
        return self._queue is not None

    def follow(self, folder: Path) -> None:
        """Look at another run from now on."""
        found = FollowedRun(folder)
        with self.lock:
            self.run = found

    def connected(self) -> tuple[str, ...]:
        return self._connected()

    def queued(self) -> tuple[QueuedStudy, ...]:
        """What waits in the queue, without the study that runs."""
        if self._queue is None:
            return ()
        with self.lock:
            running = self.run.digest if self.run is not None and not self.run.status().ended else ""
        return tuple(entry for entry in self._queue.entries() if entry.digest != running or entry.fault)

    def approve(self, study_digest: str, *, by: str) -> None:
        """See `server.queue.StudyQueue.approve`."""
        if self._queue is not None:
            self._queue.approve(study_digest, by=by)

    @property
    def approval(self) -> bool:
        return self._queue is not None and self._queue.approval
