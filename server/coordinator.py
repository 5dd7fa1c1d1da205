"""`FlowerFederation`: a federation over Flower, in one process: link state in memory, listener, and the study's seam.

No other process exists on the coordinator's side, and no API to start a run: the study runs here and asks the sites
through `ask`. Killed and started again, the process begins with an empty link state; the sites notice, introduce
themselves anew within seconds, and the study goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import cast

from common.allocator import give_back, keep_buffers
from common.errors import Code, FederationError, MessageError
from common.federation import Answer
from common.messages import REPLIES, Refusal, Reply, Request
from common.wire import Limits, WireMessage, decode_message, encode_message, inflate_record, wire_size
from server.admission import Admission
from server.link_state import Arrived, FleetState
from server.listener import LONG_POLL_S, FleetListener
from server.provisioning import AUTHORITY, KEYS
from server.registry import SiteRegistry
from server.spool import SpooledStore
from server.tls_server import TlsServer, server_context

REPORT_S = 5.0
"""How often a wait says for whom it waits, where nothing changes."""

MEMORY_BYTES = 8 << 20
"""Of requests and replies on their way, so much is held in memory; the rest waits in a file in the home folder."""

MOST_FILES = 1 << 16

UNUSED_BYTES = 16 << 20
"""Of its heap that the coordinator keeps for the next message."""

LARGE_BYTES = 8 << 20
"""After a reply of more, buffers of its chunks lie unused between others."""

OnEvent = Callable[[str], None]


def _silent(sentence: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True)
class CoordinatorSettings:
    """What the coordinator's process needs.

    Parameters
    ----------
    home : Path
        Folder with the authority and the keys (`server.provisioning`).
    address : str
        ``host:port`` to listen on; ``[::]:port`` is IPv6 and IPv4; port 0 takes a free one.
    limits : Limits
        What a reply may measure.
    """

    home: Path
    address: str
    limits: Limits = field(default_factory=Limits)
    long_poll_s: float = LONG_POLL_S


@dataclass(frozen=True)
class _Asked:
    """A request on its way."""

    message_id: str
    size: int
    at: float


class FlowerFederation:
    """`common.federation.Federation` over Flower; use it in a ``with`` statement.

    Parameters
    ----------
    settings : CoordinatorSettings
    on_event : callable, optional
        Told in one sentence each: who was refused at the door, whose reply could not be read.
    """

    def __init__(self, settings: CoordinatorSettings, *, on_event: OnEvent = _silent) -> None:
        self._settings = settings
        self._on_event = on_event
        self._store = SpooledStore(settings.home, memory_bytes=MEMORY_BYTES)
        self._state = FleetState(self._store, self._wake)
        registry = SiteRegistry(settings.home / AUTHORITY / "sites.json")
        self._admission = Admission(registry, self._state)
        self._listener = FleetListener(
            self._state,
            self._admission,
            max_objects=settings.limits.objects,
            on_refused=on_event,
            long_poll_s=settings.long_poll_s,
        )
        authorities = [settings.home / AUTHORITY / "ca.pem", settings.home / AUTHORITY / "trusted.pem"]
        context = server_context(
            certificate=settings.home / KEYS / "server.pem",
            key=settings.home / KEYS / "server.key",
            authorities=[path for path in authorities if path.exists()],
        )
        self._server = TlsServer(self._listener, address=settings.address, context=context)

    def __enter__(self) -> FlowerFederation:
        _allow_many_files()
        keep_buffers(unused_bytes=UNUSED_BYTES)
        logging.getLogger("flwr").setLevel(
            logging.WARNING
        )  # Flower tells of every message; `on_event` says what matters
        try:
            self._server.start()
        except FederationError:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server.loop is not None:
            self._server.loop.call_soon_threadsafe(self._listener.close)
        self._server.stop()
        self._release()

    @property
    def port(self) -> int:
        """The port that the hospitals connect to."""
        return self._server.port

    def is_listening(self) -> bool:
        """Whether hospitals can connect."""
        return self._server.is_serving

    def registered(self) -> tuple[str, ...]:
        """Names of all sites that are let in, connected or not, sorted."""
        return self._admission.follow()

    def sites(self) -> tuple[str, ...]:
        """Names of the connected sites, sorted."""
        self._admission.follow()
        return tuple(sorted(self._state.online()))

    def wait_for(self, sites: Sequence[str], *, deadline_s: float, on_event: OnEvent | None = None) -> tuple[str, ...]:
        """Wait until all ``sites`` are connected, and return those that are still missing at the deadline.

        ``on_event`` is told for whom the wait is, whenever that changes and every few seconds.
        """
        say = on_event or self._on_event
        end = monotonic() + deadline_s
        told: tuple[tuple[str, ...], float] = ((), 0.0)
        while True:
            missing = tuple(sorted(set(sites) - set(self.sites())))
            left = end - monotonic()
            if not missing or left <= 0:
                return missing
            if told[0] != missing or monotonic() - told[1] > REPORT_S:
                say(f"waiting for {', '.join(missing)} (at most {left:.0f} s more)")
                told = (missing, monotonic())
            with self._state.arrival:
                self._state.arrival.wait(min(left, 0.5))

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        """See `common.federation.Federation.ask`. All requests are on their way when this returns."""
        self._admission.follow()
        end = monotonic() + deadline_s
        return self._answers(sorted(requests), self._send(requests), end)

    def _release(self) -> None:
        self._listener.release()
        self._store.close()

    def _send(self, requests: Mapping[str, Request]) -> dict[str, _Asked]:
        """Put every request on its way; one that several sites get is encoded and stored once."""
        encoded: dict[int, WireMessage] = {}
        nodes = {site: self._state.node_of(site) for site in sorted(requests)}
        known = {site: node_id for site, node_id in nodes.items() if node_id is not None}
        for site in known:
            request = requests[site]
            if id(request) not in encoded:
                encoded[id(request)] = encode_message(request)
        wires = [encoded[id(requests[site])] for site in known]
        at = monotonic()
        ids = self._state.send(zip(known.values(), (wire.record for wire in wires), strict=True))
        return {
            site: _Asked(message_id, wire.size, at) for site, message_id, wire in zip(known, ids, wires, strict=True)
        }

    def _answers(self, sites: list[str], asked: dict[str, _Asked], end: float) -> Iterator[Answer]:
        open_ids = {request.message_id for request in asked.values()}
        try:
            for site in sites:
                if site not in asked:
                    yield Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
                    continue
                open_ids.discard(asked[site].message_id)
                yield self._answer_of(site, asked[site], end)
        finally:
            self._state.withdraw(open_ids)

    def _answer_of(self, site: str, request: _Asked, end: float) -> Answer:
        arrived = self._await(request.message_id, end)
        return self._silence(site, request) if arrived is None else self._read(site, request, arrived)

    def _await(self, message_id: str, end: float) -> Arrived | None:
        while True:
            with self._state.arrival:
                arrived = self._state.reply_to(message_id)
                left = end - monotonic()
                if arrived is not None or left <= 0:
                    break
                self._state.arrival.wait(left)
        return arrived

    def _silence(self, site: str, request: _Asked) -> Answer:
        fetched = self._state.delivered(request.message_id)
        self._state.withdraw([request.message_id])
        waited = monotonic() - request.at
        self._on_event(f"{site} did not {'answer' if fetched else 'fetch the request'} in {waited:.0f} s")
        return Answer(site, Refusal(Code.SITE_SILENT), request.size if fetched else 0, 0, waited)

    def _read(self, site: str, request: _Asked, arrived: Arrived) -> Answer:
        reply: Reply
        size = 0
        try:
            record = inflate_record(arrived.root, arrived.objects, self._settings.limits)
            reply = cast(Reply, decode_message(record, self._settings.limits))
            size = wire_size(record)
            if not isinstance(reply, REPLIES):
                raise MessageError(f"{type(reply).__name__} is not a reply")
        except MessageError as error:
            self._on_event(f"reply of {site} cannot be read: {error}")
            reply = Refusal(error.code)
        finally:
            self._state.withdraw([request.message_id])
        if size > LARGE_BYTES:
            give_back()  # before the sum over sites is added to, when most memory is used
        return Answer(site, reply, request.size, size, arrived.at - request.at)

    def _wake(self, node_id: int) -> None:
        loop = self._server.loop if hasattr(self, "_server") else None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._listener.wake, node_id)


def _allow_many_files() -> None:
    """As many open files as the system lets this process have: connections that never speak take one each for up to a
    minute, and the usual 1,024 are soon held by a stranger.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
