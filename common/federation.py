"""The one seam for transports: anything with `sites` and `ask` can carry a study.

`simulations.in_process` asks objects; `server.coordinator` asks hospitals over Flower. The
study cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from common.messages import Reply, Request


@dataclass(frozen=True, eq=False)
class Answer:
    """A site's reply with what its way cost.

    Parameters
    ----------
    bytes_down, bytes_up : int
        Encoded size of the request that reached the site and of the reply that left it.
    seconds : float
        From the asking to the reply's arrival.
    """

    site: str
    reply: Reply
    bytes_down: int
    bytes_up: int
    seconds: float


class Federation(Protocol):
    """Who takes part, and how they are asked."""

    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be asked now, sorted."""
        ...

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        """Put each site its request, all at the same time, and hand out the answers in the sorted order of site names.

        The fixed order is what makes float sums equal in every run. A site that misses the deadline, fails or is gone
        answers `Refusal` with the code ``site_silent``; `ask` never raises for one site and never waits longer than
        ``deadline_s``.
        """
        ...
