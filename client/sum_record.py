"""Which masked sums this hospital's numbers went into, as its audit log holds it: nobody takes one back unseen.

Two sums of the same numbers over two sets of hospitals differ by single hospitals, so each is entered before the shares
that open it leave, and what was entered decides about the next one (`client.masked_sums`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from client.audit_chain import Entry
from client.audit_log import AuditLog

SUMMED = "summed"


class SumRecord(Protocol):
    """Lines of ``study``, ``about``, ``asked`` and ``included``; `common.journal.JsonLines` is one too."""

    def read(self) -> Iterator[Mapping[str, Any]]:
        """All lines in order."""
        ...

    def write(self, event: str, **values: str) -> None:
        """Return when the line is on the disk.

        Raises
        ------
        StateError
            If it cannot be written.
        """
        ...


class SumsInLog:
    """The record of a hospital, in its audit log; it is told every entry of it (`take`)."""

    def __init__(self) -> None:
        self._lines: list[Entry] = []
        self._log: AuditLog | None = None

    def kept_in(self, log: AuditLog) -> None:
        """From now on lines are written to ``log``."""
        self._log = log

    def take(self, entry: Entry) -> None:
        """Remember an entry that is a sum."""
        if entry["event"] == SUMMED:
            self._lines.append(entry)

    def read(self) -> Iterator[Mapping[str, Any]]:
        yield from self._lines

    def write(self, event: str, **values: str) -> None:
        if self._log is None:
            raise RuntimeError("a record of sums without a log")
        self._log.append(event, durable=True, **values)
