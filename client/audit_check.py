"""Looking through an audit log without changing it: is it whole, and what does it say left the hospital?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.audit_chain import Entry, Finding, Head, read_chain
from client.audit_head import read_head
from client.audit_log import VOUCHING, AuditFiles, log_key, public_hex
from client.site_key import SiteKey
from common.errors import StateError


@dataclass(frozen=True)
class LogCheck:
    """What a look through a log found.

    Parameters
    ----------
    head : Head
        Of the last line: for IT to note down elsewhere.
    """

    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    head: Head

    @property
    def is_whole(self) -> bool:
        return not any(finding.level == "tampered" for finding in self.findings)


def check_log(files: AuditFiles, site_key: SiteKey, *, noted: Head | None = None) -> LogCheck:
    """Check every line's chain and signature, the head, and who vouches for the log's key.

    Parameters
    ----------
    noted : Head, optional
        One that was noted down earlier: the log must hold it.

    Raises
    ------
    StateError
        If the log cannot be read, or its key is gone.
    """
    if not files.log.exists() and not files.head.exists():
        raise StateError(f"{files.log}: there is no audit log yet; it begins with fedrad site approve or start")
    key = log_key(files).public_key()
    try:
        raw = files.log.read_bytes() if files.log.exists() else b""
    except OSError as error:
        raise StateError(f"{files.log} cannot be read: {error.strerror or error}") from error
    links = list(read_chain(raw, Head(), key=key))
    heads = {link.head.counter: link.head for link in links if link.entry is not None}
    entries = tuple(link.entry for link in links if link.entry is not None)
    findings = [finding for link in links for finding in link.findings]
    findings += _against_head(files, key, heads, len(links))
    if noted is not None and heads.get(noted.counter) != noted:
        findings.append(
            Finding("tampered", noted.counter, "is not the line that was noted down: rolled back or replaced")
        )
    findings += _vouched(entries, key, site_key)
    return LogCheck(entries, tuple(findings), links[-1].head if links else Head())


def _against_head(files: AuditFiles, key: Ed25519PublicKey, heads: dict[int, Head], n_lines: int) -> Iterator[Finding]:
    try:
        kept = read_head(files.head, key)
    except StateError as error:
        yield Finding("tampered", n_lines, str(error))
        return
    if kept.counter and heads.get(kept.counter) != kept:
        yield Finding("tampered", n_lines, f"rolled back: line {kept.counter} was written and is gone")


def _vouched(entries: Sequence[Entry], key: Ed25519PublicKey, site_key: SiteKey) -> Iterator[Finding]:
    """The hospital's key must have vouched for the log's key; a rotated key does so anew when fedrad next starts."""
    own = public_hex(key)
    vouchings = [entry for entry in entries if entry["event"] == "vouched"]
    of_this_key = [entry for entry in vouchings if entry["site_key"] == site_key.public and entry["log_key"] == own]
    if not any(site_key.holds(VOUCHING, bytes.fromhex(own), str(entry["vouching"])) for entry in of_this_key):
        yield Finding("tampered", 1, "the hospital's key does not vouch for the key of this log")


def parse_head(text: str) -> Head:
    """A head as it was noted down.

    Raises
    ------
    StateError
        If it is none.
    """
    counter, _, sha = text.strip().partition(":")
    if not counter.isdecimal() or len(sha) != 64 or set(sha) - set("0123456789abcdef"):
        raise StateError(f"{text[:80]!r} is no head of an audit log, expected NUMBER:SHA-256")
    return Head(int(counter), sha)


@dataclass
class StudyTotals:
    """What a log says of one study.

    Parameters
    ----------
    left : mapping of reply kind to (messages, bytes)
    """

    name: str = ""
    asked: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    last: str = ""


def totals(entries: Iterable[Entry]) -> dict[str, StudyTotals]:
    """Digest -> what was asked, refused and left."""
    found: dict[str, StudyTotals] = {}
    for entry in entries:
        if "study" not in entry:
            continue
        study = found.setdefault(str(entry["study"]), StudyTotals())
        match entry["event"]:
            case "approved":
                study.name = str(entry["name"])
            case "asked":
                study.asked += 1
            case "refused":
                study.refused[str(entry["code"])] = max(study.refused[str(entry["code"])] + 1, int(entry["times"]))
            case "left":
                study.messages[str(entry["reply"])] += 1
                study.sizes[str(entry["reply"])] += int(entry["bytes"])
                study.last = str(entry["time"])
    return found
