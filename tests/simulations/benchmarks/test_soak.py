"""What the soak measures with: its cable that can be cut, and growth over a process's life."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from simulations.benchmarks.growth import Life
from simulations.benchmarks.relay import Relay
from simulations.consortium import free_port
from tests.deployment import until


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while piece := connection.recv(100):
                    connection.sendall(piece)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def said(port: int, words: bytes) -> bytes:
    """What comes back; nothing where the cable is cut."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(words)
            return connection.recv(100)
    except OSError:
        return b""


def test_a_cable_carries_is_cut_and_heals(echo: int) -> None:
    port = free_port()
    with Relay(f"127.0.0.1:{port}", f"127.0.0.1:{echo}") as relay:
        assert said(port, b"before") == b"before"
        with socket.create_connection(("127.0.0.1", port), timeout=5) as held:
            held.sendall(b"held")
            assert held.recv(100) == b"held"
            relay.cut(0.5)
            assert held.recv(100) == b""
        assert said(port, b"during") == b""
        until(lambda: said(port, b"after") == b"after", seconds=5)


@pytest.mark.parametrize(("megabytes", "descriptors"), [(0.0, 0), (0.05, 0), (0.0, 1)])
def test_growth_of_a_process_is_seen_and_its_start_is_not(megabytes: float, descriptors: int) -> None:
    life = Life([(0, 1.0, 3), *((n, 300 + megabytes * n, 20 + descriptors * n) for n in range(1, 101))])
    assert life.growth() == pytest.approx((100 * megabytes, 100 * descriptors), abs=1e-6)


def test_too_few_rounds_tell_nothing() -> None:
    assert Life([(n, float(n), n) for n in range(10)]).growth() == (0.0, 0.0)
