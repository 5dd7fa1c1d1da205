"""A federation of objects: sites in this process, and a wrapper that makes them drop, delay or corrupt.

Every message goes through the codec both ways, as over a network: so a simulation counts the same bytes and a message
that could not travel fails here too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from types import TracebackType
from typing import Protocol, cast

from common.codec import decode, encode, encoded_size
from common.errors import Code
from common.federation import Answer
from common.messages import Refusal, Reply, Request

LOG = logging.getLogger("fedrad.simulation")


class Answers(Protocol):
    """Anything that answers requests: `client.site.Site`, or what a test puts in its place."""

    def answer(self, request: Request) -> Reply: ...


Disturbance = Callable[[str, Request], Reply | None]
"""Called before a site is asked; a reply takes the place of the site's own, None lets it answer."""


class InProcessFederation:
    """`Federation` over objects.

    Parameters
    ----------
    members : mapping of site name to object
    threads : int
        Sites asked at the same time; results do not depend on it.
    disturb : callable, optional
        For tests: what goes wrong with which request.
    """

    def __init__(self, members: Mapping[str, Answers], *, threads: int = 1, disturb: Disturbance | None = None) -> None:
        self._members = dict(members)
        self._disturb = disturb
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="site")

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        """Answers in sorted order of sites; ``deadline_s`` does not interrupt an object that is computing."""
        futures: dict[str, Future[Answer]] = {
            site: self._pool.submit(self._ask_one, site, requests[site]) for site in sorted(requests)
        }
        for future in futures.values():
            yield future.result()

    def _ask_one(self, site: str, request: Request) -> Answer:
        started = perf_counter()
        if site not in self._members:
            return Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
        try:
            disturbed = self._disturb(site, request) if self._disturb else None
            down = encode(request)
            reply = disturbed or self._members[site].answer(cast(Request, decode(*down)))
            up = encode(reply)
            received = cast(Reply, decode(*up))
        except Exception:  # as over a network, what breaks at one site is silence to the others
            LOG.exception("site %s failed", site)
            return Answer(site, Refusal(Code.SITE_SILENT), 0, 0, perf_counter() - started)
        return Answer(site, received, encoded_size(down), encoded_size(up), perf_counter() - started)

    def __enter__(self) -> InProcessFederation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
