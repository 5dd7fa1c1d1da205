"""A cable between two network namespaces that takes time, loses packets and can be cut.

Two TUN devices, one in each namespace, and a thread that carries packets between them. It needs no module of the kernel
beside TUN (``tc netem`` is missing from many), and a cut cable is silent, as a real one: no interface goes down.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from common.errors import StateError

TUN = Path("/dev/net/tun")
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
PACKET_BYTES = 1 << 16
NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Quality:
    """What a cable does to packets.

    Parameters
    ----------
    delay_s : float
        One way.
    loss : float
        Share of packets that never arrive, each direction, 0 to 1.
    """

    delay_s: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class End:
    """One end: the namespace and the name that its device gets there."""

    namespace: str
    device: str


class Cable:
    """Use it in a ``with`` statement; the devices exist from construction on and vanish at its end.

    Parameters
    ----------
    seed : int
        Of the losses, so that a run can be repeated as far as the kernel's timing allows.
    """

    def __init__(self, ends: tuple[End, End], quality: Quality, *, seed: int = 0) -> None:
        self.quality = quality
        self.cut = False
        self.carried = 0
        self.lost = 0
        self._random = random.Random(seed)  # noqa: S311  # losses, not secrets
        self._files = tuple(_open_tun(end) for end in ends)
        self._under_way: deque[tuple[float, int, bytes]] = deque()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._carry, name=f"cable-{ends[0].device}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and remove the devices."""
        os.close(self._woken)
        self._thread.join()
        for file in (*self._files, self._wake):
            os.close(file)

    def _carry(self) -> None:
        first, second = self._files
        other = {first: second, second: first}
        with selectors.DefaultSelector() as ready:
            for file in (first, second, self._wake):
                ready.register(file, selectors.EVENT_READ)
            while True:
                due = self._under_way[0][0] - monotonic() if self._under_way else None
                for key, _ in ready.select(None if due is None else max(due, 0.0)):
                    if key.fd == self._wake:
                        return
                    self._take(key.fd, other[key.fd])
                self._deliver()

    def _take(self, source: int, target: int) -> None:
        """Everything that waits at one end goes on its way, or is lost."""
        with suppress(BlockingIOError):
            while True:
                packet = os.read(source, PACKET_BYTES)
                if self.cut or self._random.random() < self.quality.loss:
                    self.lost += 1
                else:
                    self._under_way.append((monotonic() + self.quality.delay_s, target, packet))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= monotonic():
            _, target, packet = self._under_way.popleft()
            with suppress(OSError):  # the device is down, or its queue is full: lost, as on a real cable
                os.write(target, packet)
                self.carried += 1


def _open_tun(end: End) -> int:
    """A TUN device inside a namespace: made by a thread that enters it and ends."""
    result: list[int | OSError] = []

    def make() -> None:
        try:
            _enter(end.namespace)
            file = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", end.device.encode(), IFF_TUN | IFF_NO_PI))
            result.append(file)
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise StateError(f"no TUN device in namespace {end.namespace}: {result[0]}") from result[0]
    return result[0]


def _enter(namespace: str) -> None:
    """Move the calling thread, and it alone, into a network namespace."""
    file = os.open(NAMESPACES / namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(file)
