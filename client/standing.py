"""Which studies a running site answers, told when it starts and again whenever an approval is given or taken back.

An approval is an entry of the audit log, which `fedrad site approve` writes from another process. The gate reads the
log again before every request, so an approval counts from the next request on; here it is only told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from client.site import Site
from common.config.loading import digest
from common.config.study import StudyConfig
from common.messages import Reply, Request


class Standing:
    """A site that says which of its studies are approved.

    Parameters
    ----------
    site : Site
        Who answers.
    studies : sequence of StudyConfig
        Those that the site file lists; one that is listed later counts after a restart.
    tell : callable
        Takes one sentence; names of studies are all that it holds of them.
    """

    def __init__(self, site: Site, studies: Sequence[StudyConfig], *, tell: Callable[[str], None]) -> None:
        self._site, self._tell = site, tell
        self._names = {digest(study): study.name for study in studies}
        self._told = self._approved()

    def tell_all(self, coordinator: str) -> None:
        """What stands at the start; with nothing approved, that the site waits, and for what."""
        for key, name in self._names.items():
            if key not in self._told:
                self._tell(f"{name} is not approved, so it is refused: fedrad site approve")
        self._tell(f"site {self._site.config.site}: {len(self._told)} approved studies, coordinator {coordinator}")
        if not self._told:
            self._tell("waiting for an approval: it counts from the next request on, without a restart")

    def answer(self, request: Request) -> Reply:
        """As ``Site.answer``; then tell which approvals came or went since the last request."""
        reply = self._site.answer(request)
        approved = self._approved()
        for key, name in self._names.items():
            if key in approved - self._told:
                self._tell(f"{name} is approved now: it is answered")
            elif key in self._told - approved:
                self._tell(f"{name} is approved no longer: it is refused")
        self._told = approved
        return reply

    def _approved(self) -> set[str]:
        return self._names.keys() & self._site.gate.approvals.held.keys()
