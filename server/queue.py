"""The studies that wait for the coordinator: files in HOME/queue, and which of them a person has approved.

An approval is of a study's digest: a file that is changed afterwards waits again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import FedradError, StateError
from common.files import write_atomic

QUEUE, RUNS, DONE, FAILED = "queue", "runs", "done", "failed"
APPROVALS_FILE = "approved.json"


@dataclass(frozen=True)
class QueuedStudy:
    """One file of the queue.

    Parameters
    ----------
    digest : str
        SHA-256 of the study; empty where the file has faults.
    approved_by : str
        Empty where nobody approved it yet.
    fault : str
        Why the file is no study; empty where it is one.
    """

    file: Path
    name: str
    title: str
    digest: str
    approved_by: str
    fault: str = ""


class StudyQueue:
    """Files in ``home/queue``, in order of their names.

    Parameters
    ----------
    approval : bool
        Whether a study waits until a person approves it; otherwise it is started when its turn comes.
    """

    def __init__(self, home: Path, *, approval: bool = False) -> None:
        self.home = home
        self.approval = approval
        self._read: dict[tuple[Path, int, int], QueuedStudy] = {}

    def create(self) -> None:
        """Make the folders."""
        for name in (QUEUE, RUNS, DONE, FAILED):
            (self.home / name).mkdir(exist_ok=True)

    def entries(self) -> tuple[QueuedStudy, ...]:
        """All files, those with faults too."""
        approved = self._approvals()
        found = []
        for file in sorted((self.home / QUEUE).glob("*.toml")):
            entry = self._entry(file)
            if entry is not None:
                by = approved.get(entry.digest, {}).get("by", "") if entry.digest else ""
                found.append(QueuedStudy(entry.file, entry.name, entry.title, entry.digest, by, entry.fault))
        return tuple(found)

    def due(self) -> tuple[QueuedStudy, ...]:
        """Those that may be started; files with faults are due at once, to be set aside."""
        return tuple(e for e in self.entries() if e.fault or e.approved_by or not self.approval)

    def approve(self, study_digest: str, *, by: str) -> None:
        """Let a study of the queue start.

        Raises
        ------
        StateError
            If no file of the queue has this digest.
        """
        if study_digest not in {entry.digest for entry in self.entries() if not entry.fault}:
            raise StateError(f"no study {study_digest[:12]} is in the queue; its file may have changed")
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        content = self._approvals() | {study_digest: {"by": by, "time": time}}
        write_atomic(self.home / APPROVALS_FILE, json.dumps(content, indent=1).encode())

    def _entry(self, file: Path) -> QueuedStudy | None:
        """What a file says, read again only when it changed; None where it is gone."""
        try:
            status = file.stat()
        except FileNotFoundError:
            return None
        key = (file, status.st_mtime_ns, status.st_ino)
        if key not in self._read:
            try:
                study = load(file, StudyConfig)
                entry = QueuedStudy(file, study.name, study.title, digest(study), "")
            except FedradError as error:
                entry = QueuedStudy(file, file.stem, "", "", "", str(error))
            self._read = {k: v for k, v in self._read.items() if k[0] != file} | {key: entry}
        return self._read[key]

    def _approvals(self) -> dict[str, dict[str, str]]:
        path = self.home / APPROVALS_FILE
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StateError(f"{path} cannot be read: {error}") from error
