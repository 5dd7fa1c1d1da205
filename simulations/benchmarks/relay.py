"""A relay on the loopback address whose connections can be cut, as when a firewall restarts; needs no privilege."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from time import monotonic
from types import TracebackType

PIECE_BYTES = 1 << 16
LOOK_S = 0.1


class Relay:
    """Passes connections on from one address to another; use it in a ``with`` statement.

    Parameters
    ----------
    listen, target : str
        ``host:port``.
    """

    def __init__(self, listen: str, target: str) -> None:
        self._target = _split(target)
        self._listener = socket.create_server(_split(listen))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._partner: dict[socket.socket, socket.socket] = {}
        self._cut_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._drop_all()
        self._selector.close()
        self._listener.close()

    def cut(self, seconds: float) -> None:
        """Reset all connections, and every new one for so long."""
        self._cut_until = monotonic() + seconds

    def _carry(self) -> None:
        while not self._stop.is_set():
            ready = self._selector.select(LOOK_S)
            if monotonic() < self._cut_until:
                self._drop_all()
            for key, _ in ready:
                found = key.fileobj
                if found is self._listener:
                    self._accept()
                elif isinstance(found, socket.socket) and found in self._partner:
                    self._pass_on(found)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            if monotonic() < self._cut_until:
                raise ConnectionResetError
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.settimeout(30)
            self._partner[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        try:
            piece = source.recv(PIECE_BYTES)
            if not piece:
                raise ConnectionResetError
            self._partner[source].sendall(piece)
        except OSError:
            self._drop(source)

    def _drop(self, one: socket.socket) -> None:
        other = self._partner.pop(one)
        del self._partner[other]
        for end in (one, other):
            self._selector.unregister(end)
            with suppress(OSError):
                end.close()

    def _drop_all(self) -> None:
        while self._partner:
            self._drop(next(iter(self._partner)))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
