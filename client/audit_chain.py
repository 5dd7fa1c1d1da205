"""Lines of the audit log: how one is signed and chained to the line before, and what is wrong with those of a file.

A line is JSON whose last field is the Ed25519 signature of the SHA-256 of everything before it. ``previous`` is that
hash of the line before, ``counter`` rises by one. So a line cannot be changed, taken out, added or moved without a
break that `read_chain` names. Only the end can be cut off without a break: see the head in `client.audit_log`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Entry = Mapping[str, Any]
Level = Literal["tampered", "crash", "clock"]

NO_LINE = "0" * 64
"""What stands for the hash of the line before the first one."""

_SIGNATURE = b',"signature":"'
_MARK = b"fedrad audit line 1\n"
SIGNATURE_DIGITS = 128
CLOCK_TOLERANCE_S = 2.0
"""By so much a clock may be set back, as time services do, without a note."""


@dataclass(frozen=True)
class Head:
    """The last line: its counter and its hash. A hash that IT noted down elsewhere shows a log that was rolled back."""

    counter: int = 0
    sha256: str = NO_LINE

    def __str__(self) -> str:
        return f"{self.counter}:{self.sha256}"


@dataclass(frozen=True)
class Finding:
    """Something in the log that a person should know: a break, the trace of a crash, a clock that was wrong."""

    level: Level
    line: int
    sentence: str


@dataclass(frozen=True)
class Link:
    """One line as it was read: an entry, or what is wrong with it (``entry`` is None where it cannot be read)."""

    entry: Entry | None
    head: Head
    findings: tuple[Finding, ...]
    raw: bytes


def sign_line(content: Mapping[str, str | int | float | bool], key: Ed25519PrivateKey) -> tuple[bytes, Head]:
    """A line, with its line end, and the head that it makes. ``content`` has ``counter`` and ``previous``."""
    if "signature" in content:
        raise ValueError("the signature of a line is made here")
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    open_text = text.removesuffix(b"}")
    sha = _sha(open_text)
    signature = key.sign(bytes.fromhex(sha)).hex().encode()
    return open_text + _SIGNATURE + signature + b'"}\n', Head(int(content["counter"]), sha)


def read_chain(
    raw: bytes, start: Head, *, key: Ed25519PublicKey, signed_after: int = 0, first_line: int = 1
) -> Iterator[Link]:
    """Every line of ``raw``, which follows ``start``.

    Parameters
    ----------
    signed_after : int
        Signatures are checked of lines with a higher counter than this; hashes of all lines.
    first_line : int
        Number of the first line in its file, for the findings.
    """
    head = start
    latest = ""
    cut = b""
    for number, line in enumerate(raw.splitlines(keepends=True), start=first_line):
        entry, sha = _parsed(line)
        if entry is None:
            cut += line
            yield Link(None, head, (), line)
            continue
        findings = list(_cut_findings(cut, entry, number))
        cut = b""
        findings += [Finding("tampered", number, text) for text in _breaks(entry, head)]
        if entry["counter"] > signed_after and not _is_signed(line, sha, key):
            findings.append(Finding("tampered", number, "the signature is not that of the log's key"))
        if entry.get("clock_back_s"):
            findings.append(Finding("clock", number, f"the clock had been set back by {entry['clock_back_s']:g} s"))
        elif _earlier(entry["time"], latest):
            findings.append(Finding("tampered", number, f"time {entry['time']} lies before {latest}, without a note"))
        latest = entry["time"]
        head = Head(entry["counter"], sha)
        yield Link(entry, head, tuple(findings), line)
    if cut:
        number = first_line + len(raw.splitlines()) - 1
        yield Link(None, head, (Finding("crash", number, "the last line was cut short"),), b"")


def clock_back_s(now: datetime, latest: str) -> float:
    """By how many seconds the clock stands before the time of the latest line; 0 within the tolerance."""
    if not latest:
        return 0.0
    back = (datetime.fromisoformat(latest) - now).total_seconds()
    return round(back, 3) if back > CLOCK_TOLERANCE_S else 0.0


def time_stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")


def _sha(open_text: bytes) -> str:
    return hashlib.sha256(_MARK + open_text).hexdigest()


def _parsed(line: bytes) -> tuple[Entry | None, str]:
    """The entry of a whole line and its hash; None where a line is cut short or no entry."""
    open_text, mark, rest = line.rpartition(_SIGNATURE)
    if not mark or not line.endswith(b'"}\n') or len(rest) != SIGNATURE_DIGITS + 3:
        return None, ""
    try:
        entry = json.loads(line)
        counter, _, _ = entry["counter"], entry["previous"], datetime.fromisoformat(entry["time"])
    except (ValueError, KeyError, TypeError):
        return None, ""
    return (entry, _sha(open_text)) if isinstance(counter, int) else (None, "")


def _is_signed(line: bytes, sha: str, key: Ed25519PublicKey) -> bool:
    signature = line.rpartition(_SIGNATURE)[2][:SIGNATURE_DIGITS]
    try:
        key.verify(bytes.fromhex(signature.decode("ascii")), bytes.fromhex(sha))
    except (InvalidSignature, ValueError):
        return False
    return True


def _breaks(entry: Entry, before: Head) -> Iterator[str]:
    if entry["counter"] != before.counter + 1:
        yield f"counter {entry['counter']} follows {before.counter}: lines were taken out, added or moved"
    if entry["previous"] != before.sha256:
        yield "the line before is not the one that this line was written after"


def cut_sha256(cut: bytes) -> str:
    """What the line after a cut line says of it, where a crash cut it."""
    return hashlib.sha256(cut.removesuffix(b"\n")).hexdigest()


def _cut_findings(cut: bytes, entry: Entry, number: int) -> Iterator[Finding]:
    """A cut line is the trace of a crash where the next line says so, and else a sign of tampering."""
    recovered = entry["event"] == "recovered"
    if cut and recovered and entry["cut_sha256"] == cut_sha256(cut):
        yield Finding("crash", number - 1, f"cut short by a crash, as line {number} notes")
    elif cut:
        yield Finding("tampered", number - 1, "is no line of this log, and no crash was noted after it")
    elif recovered:
        yield Finding("tampered", number, "notes a line that a crash cut short, and there is none before it")


def _earlier(time: str, latest: str) -> bool:
    return clock_back_s(datetime.fromisoformat(time), latest) > 0
