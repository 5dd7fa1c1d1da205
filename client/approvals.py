"""Which studies this hospital approved: signed entries of its audit log, each with the digest of exactly one study.

An approval holds for the file as it is: another seed, model or hospital in it is another digest, and another approval.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass

from client.audit_chain import Entry
from client.audit_log import AuditLog
from client.site_key import SiteKey
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, GateError

PURPOSE = "study approval"
"""What the hospital's key signs, followed by the site's name and the digest."""


@dataclass(frozen=True)
class Approval:
    """One approval as the log holds it; ``approval`` is the hospital's signature."""

    study: str
    name: str
    title: str
    time: str
    by: str
    approval: str


class Approvals:
    """The approvals of a hospital; fed with the entries of its log in order."""

    def __init__(self, site: str, key: SiteKey) -> None:
        self._site = site
        self._key = key
        self._held: dict[str, Approval] = {}
        self._revoked: dict[str, str] = {}

    @property
    def held(self) -> Mapping[str, Approval]:
        """Digest -> approval, of those that were not revoked."""
        return self._held

    def take(self, entry: Entry) -> None:
        """Note an entry of the log."""
        if entry["event"] == "approved":
            fields = {name: str(entry[name]) for name in ("study", "name", "title", "time", "by", "approval")}
            self._held[fields["study"]] = Approval(**fields)
            self._revoked.pop(fields["study"], None)
        elif entry["event"] == "revoked":
            self._held.pop(str(entry["study"]), None)
            self._revoked[str(entry["study"])] = str(entry["time"])

    def require(self, study_digest: str) -> None:
        """Refuse a study that is not approved, or whose approval another key signed.

        Raises
        ------
        GateError
            Code ``study_not_approved``.
        """
        approval = self._held.get(study_digest)
        if approval is None:
            when = self._revoked.get(study_digest)
            state = f"its approval was revoked {when}" if when else "it has no approval"
            reason = f"study {study_digest[:12]}: {state}; fedrad site approve"
        elif not self._key.holds(PURPOSE, _content(self._site, study_digest), approval.approval):
            reason = f"study {study_digest[:12]}: another key signed its approval; fedrad site approve it again"
        else:
            return
        raise GateError(reason, code=Code.STUDY_NOT_APPROVED)


def approve(log: AuditLog, study: StudyConfig, *, site: str, key: SiteKey) -> str:
    """Sign a study and write it into the log; its digest.

    Raises
    ------
    StateError
        If the log cannot be written.
    """
    study_digest = digest(study)
    log.append(
        "approved",
        durable=True,
        study=study_digest,
        name=study.name,
        title=study.title,
        by=_user(),
        approval=key.sign(PURPOSE, _content(site, study_digest)),
    )
    return study_digest


def revoke(log: AuditLog, study_digest: str, *, reason: str) -> None:
    """Take an approval back, at once also for a process that is answering.

    Raises
    ------
    StateError
        If the log cannot be written.
    """
    log.append("revoked", durable=True, study=study_digest, reason=reason, by=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _content(site: str, study_digest: str) -> bytes:
    return f"{site}\n{study_digest}".encode()
