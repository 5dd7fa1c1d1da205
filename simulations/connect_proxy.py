"""A small HTTPS CONNECT proxy, as a hospital's network may have one; for tests and for `simulations.hosts`.

It opens tunnels to the addresses that it was given and to no other, looks into none of them, and can ask for a login.
"""

from __future__ import annotations

import argparse
import base64
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

PIECE_BYTES = 1 << 16
HEAD_S, CONNECT_S = 10.0, 10.0


@dataclass
class ConnectProxy:
    """A proxy in threads; use it in a ``with`` statement.

    Parameters
    ----------
    allowed : sequence of str
        ``host:port`` as a client writes it; everything else is answered 403.
    names : mapping
        Host name -> address, for names that only the proxy's network knows.
    login : str
        ``user:password`` that is demanded; empty for none.
    requests : list of str
        First line of every request that came, in order.
    """

    allowed: Sequence[str]
    address: tuple[str, int] = ("127.0.0.1", 0)
    names: Mapping[str, str] = field(default_factory=dict)
    login: str = ""
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(self.address)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="connect-proxy", daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> ConnectProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(CONNECT_S)

    def cut(self) -> None:
        """End every tunnel; new ones can be made."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, ValueError):  # a peer that is gone or talks nonsense ends its own tunnel
            client.settimeout(HEAD_S)
            line, headers = _head(client)
            self.requests.append(line)
            method, where, _ = line.split(" ", 2)
            expected = "Basic " + base64.b64encode(self.login.encode()).decode()
            if self.login and headers.get("proxy-authorization") != expected:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif method != "CONNECT" or where not in self.allowed:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                self._tunnel(client, where)

    def _tunnel(self, client: socket.socket, where: str) -> None:
        host, _, port = where.rpartition(":")
        host = host.strip("[]")
        try:
            server = socket.create_connection((self.names.get(host, host), int(port)), CONNECT_S)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        with server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {client, server}
            self._open |= ends
            for end in ends:
                end.settimeout(None)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()
            self._open -= ends


def _head(client: socket.socket) -> tuple[str, dict[str, str]]:
    """First line and headers (names in lower case) of a request."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < PIECE_BYTES:
        piece = client.recv(1)  # to the byte: what follows belongs to the tunnel
        if not piece:
            break
        head += piece
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return first, {name.strip().lower(): value.strip() for name, value in pairs}


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one end to the other until either is closed; then both are."""
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until killed: ``python -m simulations.connect_proxy HOST PORT ALLOWED...``."""
    parser = argparse.ArgumentParser(description="A small HTTPS CONNECT proxy.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("allowed", nargs="+", help="host:port to which tunnels may lead")
    arguments = parser.parse_args()
    with ConnectProxy(arguments.allowed, (arguments.host, arguments.port)):
        threading.Event().wait()


if __name__ == "__main__":
    main()
