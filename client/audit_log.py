"""The hospital's audit log: append-only, chained, signed; every request, every decision and everything that left.

::

    audit.jsonl      the lines (`client.audit_chain`)
    audit.key        Ed25519 key that signs them, made here; the hospital's own key vouches for it in the log
    audit.head       counter and hash of the last line that something left under, signed; in two places by turns

The head is written after its line has reached the disk. So a log that ends before its head was rolled back, while a log
that goes on after it, or ends in a cut line, is the trace of a crash. Somebody who puts back *both* files of an older
day is found by a head that was noted down elsewhere (``fedrad site audit --noted``), or kept on another disk (``head``
in ``[gate]``).

Several processes may write: each takes the file's lock and reads first what the others wrote.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from client.audit_chain import (
    Entry,
    Finding,
    Head,
    clock_back_s,
    cut_sha256,
    read_chain,
    sign_line,
    time_stamp,
)
from client.audit_head import ADVICE, SLOT_BYTES, read_head, write_head
from client.site_key import SiteKey
from common.errors import StateError
from common.files import write_secret

LOG_FILE, KEY_FILE, HEAD_FILE = "audit.jsonl", "audit.key", "audit.head"
CUT_HERE = b"~\n"
"""Ends a line that a crash cut, so that one that lacked its line end alone does not become whole afterwards."""

VOUCHING = "audit key"
"""What the hospital's key signs when it vouches for the log's key."""

OnEntry = Callable[[Entry], None]
Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class AuditFiles:
    """Where a log lies; ``head`` may be on another disk."""

    log: Path
    key: Path
    head: Path

    @classmethod
    def of(cls, state: Path, head: Path | None = None) -> AuditFiles:
        return cls(state / LOG_FILE, state / KEY_FILE, head or state / HEAD_FILE)


class AuditLog:
    """The log of one hospital, opened for writing.

    Parameters
    ----------
    files : AuditFiles
    site_key : SiteKey
        Vouches for the log's key.
    on_entry : callable, optional
        Handed every entry in order: those that are there, those that this process writes, and those of others.
    clock : callable, optional
        The time in UTC.

    Raises
    ------
    StateError
        If a file cannot be read, or the log was changed or rolled back.
    """

    def __init__(
        self, files: AuditFiles, site_key: SiteKey, *, on_entry: OnEntry | None = None, clock: Clock = _now
    ) -> None:
        self.files = files
        self.head = Head()
        self._on_entry = on_entry
        self._clock = clock
        self._latest_time = ""
        self._vouched_by = ""
        self._position = 0
        self._last_line = b""
        self._place = 0
        files.log.parent.mkdir(parents=True, exist_ok=True)
        files.head.parent.mkdir(parents=True, exist_ok=True)
        self._key = log_key(files)
        with self._locked() as handle:
            if not os.fstat(handle).st_size and not files.head.exists():
                write_head(files.head, Head(), self._key, place=0)
            kept = read_head(files.head, self._key.public_key())
            self._catch_up(handle, kept)
            if self._vouched_by != site_key.public:
                self._append(handle, "vouched", vouching(self._key, site_key))
                self._keep_head(handle)

    def append(self, event: str, *, durable: bool = False, **values: str | int | float | bool) -> Head:
        """Write one entry.

        Parameters
        ----------
        durable : bool
            Return only when the line has reached the disk, and keep it as the head: for what lets data leave.

        Raises
        ------
        StateError
            If it cannot be written whole, or the file was changed by anyone but this program.
        """
        with self._locked() as handle:
            self._catch_up(handle, self.head)
            head = self._append(handle, event, values)
            if durable:
                self._keep_head(handle)
            return head

    def catch_up(self) -> None:
        """Read what other processes wrote since.

        Raises
        ------
        StateError
            If the file was changed by anyone but this program.
        """
        with self._locked() as handle:
            self._catch_up(handle, self.head)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            handle = os.open(self.files.log, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {self.files.log}: {error.strerror or error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        except OSError as error:
            raise StateError(f"cannot write {self.files.log}: {error.strerror or error}") from error
        finally:
            os.close(handle)

    def _catch_up(self, handle: int, kept: Head) -> None:
        """Take what was written since, which must hold the line ``kept`` unless that was taken before."""
        size = os.fstat(handle).st_size
        start = self._position - len(self._last_line)
        if size < self._position or os.pread(handle, len(self._last_line), start) != self._last_line:
            raise StateError(f"{self.files.log} was changed or rolled back while fedrad ran; {ADVICE}")
        seen, cut = self.head == kept, b""
        raw = _read(handle, self._position, size)
        for link in read_chain(raw, self.head, key=self._key.public_key(), signed_after=kept.counter):
            require_whole(self.files.log, link.findings)
            cut = b"" if link.entry else cut + link.raw
            if link.entry is not None:
                self._take(link.entry, link.head, link.raw)
                seen |= link.head == kept
        if not seen:
            raise StateError(f"{self.files.log} was rolled back: line {kept.counter} was written and is gone; {ADVICE}")
        self._position = size - len(cut)
        if cut:
            end = b"" if cut.endswith(b"\n") else CUT_HERE
            values: dict[str, str | int | float | bool] = {"cut_bytes": len(cut), "cut_sha256": cut_sha256(cut + end)}
            self._append(handle, "recovered", values, before=end)
            self._position += len(cut)

    def _append(
        self, handle: int, event: str, values: Mapping[str, str | int | float | bool], *, before: bytes = b""
    ) -> Head:
        """Write a line, and in the same breath the end of the cut line ``before`` it."""
        now = self._clock()
        content: dict[str, str | int | float | bool] = {"counter": self.head.counter + 1, "time": time_stamp(now)}
        content |= {"event": event, **values}
        back = clock_back_s(now, self._latest_time)
        if back:
            content["clock_back_s"] = back
        line, head = sign_line(content | {"previous": self.head.sha256}, self._key)
        if os.write(handle, before + line) != len(before + line):
            raise StateError(f"cannot write {self.files.log}: a line was cut short, the disk may be full")
        self._position += len(before + line)
        self._take(content, head, line)
        return head

    def _take(self, entry: Entry, head: Head, line: bytes) -> None:
        self.head, self._last_line, self._latest_time = head, line, str(entry["time"])
        if entry["event"] == "vouched":
            self._vouched_by = str(entry["site_key"])
        if self._on_entry is not None:
            self._on_entry(entry)

    def _keep_head(self, handle: int) -> None:
        os.fsync(handle)
        self._place = 1 - self._place
        write_head(self.files.head, self.head, self._key, place=self._place)


def begin_anew(files: AuditFiles, site_key: SiteKey, *, reason: str) -> Path:
    """Put a log that cannot be continued aside, and begin another, whose second line says why.

    Approvals and counts stay with the former log: every study has to be approved again.

    Returns
    -------
    Path
        The folder that holds the former files.

    Raises
    ------
    StateError
        If a file cannot be moved.
    """
    aside = files.log.with_name(f"audit-until-{_now():%Y%m%dT%H%M%SZ}")
    try:
        former = files.head.read_bytes()[:SLOT_BYTES].strip().decode("ascii", "replace") if files.head.exists() else ""
        aside.mkdir(parents=True)
        for path in (files.log, files.key, files.head):
            if path.exists():
                shutil.move(path, aside / path.name)
    except OSError as error:
        raise StateError(f"{files.log} cannot be put aside: {error}") from error
    AuditLog(files, site_key).append("begun_anew", durable=True, reason=reason[:500], former_head=former[:200])
    return aside


def log_key(files: AuditFiles) -> Ed25519PrivateKey:
    """The key that signs the lines; made where there is neither a key nor a log.

    Raises
    ------
    StateError
        If it cannot be read, or is gone while its log is there.
    """
    if not files.key.exists():
        if files.log.exists() and files.log.stat().st_size:
            raise StateError(f"{files.key} is gone, so {files.log} cannot be continued; {ADVICE}")
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        write_secret(files.key, Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, *private))
    try:
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{files.key} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StateError(f"{files.key} is no Ed25519 key")
    return key


def public_hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def vouching(key: Ed25519PrivateKey, site_key: SiteKey) -> dict[str, str]:
    """What the entry says by which the hospital's key vouches for the log's."""
    own = public_hex(key.public_key())
    return {"log_key": own, "site_key": site_key.public, "vouching": site_key.sign(VOUCHING, bytes.fromhex(own))}


def require_whole(log: Path, findings: tuple[Finding, ...]) -> None:
    """Raise `StateError` at the first sign of tampering; crashes and clocks are no reason to stop."""
    for finding in findings:
        if finding.level == "tampered":
            raise StateError(f"{log}, line {finding.line}: {finding.sentence}; {ADVICE}")


def _read(handle: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(handle, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)
