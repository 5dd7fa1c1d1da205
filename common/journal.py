"""`JsonLines`: an append-only file of JSON objects, for the site's log and outbox and the coordinator's events.

Each line is written with one system call, so a crash loses at most the line that was being written; what is written
afterwards starts on a line of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import StateError


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
        """Append ``{"time": ..., "event": event, **values}``.

        Raises
        ------
        StateError
            If the line cannot be written whole, for example because the disk is full.
        """
        content = _stamped(event, values)
        line = json.dumps(content).encode() + b"\n"
        try:
            written = self._append(line)
        except OSError as error:
            raise StateError(f"cannot write {self.path}: {error.strerror or error}") from error
        if not written:
            raise StateError(f"cannot write {self.path}: a line was cut short, the disk may be full")
        if self._listener is not None:
            self._listener(content)

    def read(self) -> Iterator[dict[str, Any]]:
        """All whole lines; a line that a crash cut short is passed over."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                try:
                    content = json.loads(line)
                except ValueError:
                    continue  # only a cut line is no JSON: every whole one was written by `write`
                if line.endswith(b"\n") and isinstance(content, dict):
                    yield content

    def read_from(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Whole lines from a byte offset on, and the offset behind them: how a reader follows a growing file."""
        if not self.path.exists():
            return [], 0
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(offset if offset <= size else 0)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            end = file.tell() - len(content) + len(whole)
        lines = []
        for line in whole.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue  # cut short by a crash
            if isinstance(value, dict):
                lines.append(value)
        return lines, end

    def _append(self, line: bytes) -> bool:
        """True where the whole line was written."""
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            whole = b"\n" + line if cut else line
            return os.write(handle, whole) == len(whole)
        finally:
            os.close(handle)


def line_of(event: str, values: Mapping[str, str | int | float | bool]) -> str:
    """The line that `JsonLines.write` would append, for those who write to a stream."""
    return json.dumps(_stamped(event, values)) + "\n"


def _stamped(event: str, values: Mapping[str, str | int | float | bool]) -> dict[str, Any]:
    return {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **values}
