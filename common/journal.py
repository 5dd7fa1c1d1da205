"""`JsonLines`: an append-only file of JSON objects, for the site's log and outbox and the coordinator's events.

Each line is written with one system call, so a crash loses at most the line that was being written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class JsonLines:
    """An append-only file of JSON objects, one a line, each with a UTC time stamp.

    Parameters
    ----------
    path : Path
    listener : callable, optional
        Handed every line after it was written: how a terminal follows a running study.
    """

    def __init__(self, path: Path, *, listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path = path
        self._listener = listener
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **values: str | int | float | bool) -> None:
        """Append ``{"time": ..., "event": event, **values}``."""
        content = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, json.dumps(content).encode() + b"\n")
        finally:
            os.close(handle)
        if self._listener is not None:
            self._listener(content)

    def read(self) -> Iterator[dict[str, Any]]:
        """All whole lines; a last line that a crash cut short is passed over."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)
