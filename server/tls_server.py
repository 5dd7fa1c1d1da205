"""A TLS server in a thread: uvicorn, client certificates demanded, and the certificate handed to the application.

The application finds the DER bytes of the peer's certificate in ``scope["state"]["peer_certificate"]``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import FederationError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER_CERTIFICATE = "peer_certificate"
HEAD_S = 20.0
"""Seconds in which a connected peer must finish the head of a request."""

KEEP_ALIVE_S = 75
READ_AHEAD_BYTES = 8 << 20
"""Body bytes that are collected before the application hears of them: it gets a chunk of Flower in one piece, where
uvicorn would wake it every 64 KB and stop the connection in between."""

BLOCK_BYTES = 256 << 10
"""Of a body that is collected: what a peer sends in tiny pieces takes no more room than another's."""

SMALL_BODY_DIGITS = 5
"""A body of a longer content-length, in digits, stays in the network until the application asks for it."""

START_S = 10.0
ABORT_S = 0.05
"""For the event loop to let go of connections that were cut off."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise FederationError(f"address {address!r}: expected host:port, with [ ] around an IPv6 address")
    return host.strip("[]"), int(port)


def server_context(*, certificate: Path, key: Path, authorities: list[Path]) -> ssl.SSLContext:
    """TLS 1.3 with a client certificate of one of the authorities demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    for authority in authorities:
        context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Body:
    """A body as uvicorn collects it, in blocks: one buffer that grew would leave the heap full of holes."""

    def __init__(self) -> None:
        self._blocks: list[bytearray] = [bytearray()]

    def __iadd__(self, piece: bytes) -> _Body:
        if len(self._blocks[-1]) >= BLOCK_BYTES:
            self._blocks.append(bytearray())
        self._blocks[-1] += piece
        return self

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def __bytes__(self) -> bytes:
        return b"".join(self._blocks)


class PeerProtocol(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is read as Any
    """uvicorn's HTTP protocol, which knows its peer, does not wait for ever for a head and reads ahead."""

    app_state: dict[str, Any]
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, PEER_CERTIFICATE: certificate}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_arrived()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_arrived()
        if any(name == b"content-length" and len(value) > SMALL_BODY_DIGITS for name, value in self.headers):
            self.flow.pause_reading()  # until the application asks for the body
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            return
        if not self.cycle.body:
            self.cycle.body = _Body()
        self.cycle.body += body
        if len(self.cycle.body) > READ_AHEAD_BYTES:
            self.flow.pause_reading()
            self.cycle.message_event.set()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class TlsServer:
    """An ASGI application behind one TLS port, in a thread of its own.

    Parameters
    ----------
    application : callable
    address : str
        ``host:port``; port 0 takes a free one; ``[::]:port`` listens on IPv6 and IPv4.
    context : ssl.SSLContext
    """

    def __init__(self, application: Application, *, address: str, context: ssl.SSLContext) -> None:
        config = uvicorn.Config(
            application,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
            server_header=False,
            ssl_context_factory=lambda *_: context,
        )
        self._address = address
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="fedrad-listener", daemon=True)
        self._started = threading.Event()
        self._socket: socket.socket | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._socket is None:
            raise FederationError("the listener is not started")
        return int(self._socket.getsockname()[1])

    @property
    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive() and self._started.is_set() and not self._server.should_exit

    def start(self) -> None:
        """Bind and serve.

        Raises
        ------
        FederationError
            If the address cannot be bound.
        """
        host, port = split_address(self._address)
        v6 = ":" in host
        try:
            self._socket = socket.create_server(
                (host, port),
                family=socket.AF_INET6 if v6 else socket.AF_INET,
                dualstack_ipv6=v6 and host == "::" and socket.has_dualstack_ipv6(),
                backlog=256,
            )
        except OSError as error:
            raise FederationError(f"cannot listen on {self._address}: {error.strerror}") from error
        self._thread.start()
        if not self._started.wait(START_S):
            raise FederationError(f"the listener on {self._address} did not start in {START_S:.0f} s")

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(START_S)
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.call_soon(self._announce)
        await self._server.serve(sockets=[self._socket] if self._socket else [])
        for left in list(self._server.server_state.connections):  # peers that did not close in time
            left.transport.abort()
        await asyncio.sleep(ABORT_S)

    def _announce(self) -> None:
        """Tell `start` as soon as uvicorn accepts connections."""
        if self._server.started:
            self._started.set()
        elif self.loop is not None:
            self.loop.call_later(0.005, self._announce)
