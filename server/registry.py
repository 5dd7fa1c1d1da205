"""`SiteRegistry`: which sites may connect, and with which key: the allow-list behind the listener."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.errors import StateError
from server.checkpoint import write_atomic


@dataclass(frozen=True)
class Member:
    """One site.

    Parameters
    ----------
    public_key : str
        PEM (SubjectPublicKeyInfo) of the site's key: Flower node key and TLS key in one.
    certificate_sha256 : str
        Fingerprint of the only certificate with which the site gets in.
    not_after : str
        End of the certificate, ISO 8601 in UTC.
    """

    public_key: str
    certificate_sha256: str
    not_after: str
    revoked: bool = False


class SiteRegistry:
    """Name -> `Member`, in one JSON file that is written atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Write an empty registry where there is none."""
        if not self.path.exists():
            self._save({})

    def read(self) -> dict[str, Member]:
        """All sites, sorted by name.

        Raises
        ------
        StateError
            If the file is missing or damaged.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {site: Member(**member) for site, member in sorted(content["sites"].items())}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"site registry {self.path} cannot be read: {error}") from error

    def write(self, site: str, member: Member) -> None:
        """Add a site, or replace its entry.

        Raises
        ------
        StateError
            If another site has the same key.
        """
        members = self.read()
        for name, other in members.items():
            if name != site and other.public_key == member.public_key:
                raise StateError(f"site {site} has the same key as site {name}")
        self._save({**members, site: member})

    def revoke(self, site: str) -> None:
        """Mark a site's certificate as refused.

        Raises
        ------
        StateError
            If the site is not registered.
        """
        members = self.read()
        if site not in members:
            raise StateError(f"site {site} is not registered")
        self._save({**members, site: replace(members[site], revoked=True)})

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the file is replaced: cheap to ask before every request."""
        status = self.path.stat()
        return status.st_mtime_ns, status.st_ino

    def _save(self, members: dict[str, Member]) -> None:
        content = {"sites": {site: asdict(member) for site, member in sorted(members.items())}}
        write_atomic(self.path, json.dumps(content, indent=1).encode())
