"""Long time slices while a model trains: the processor's caches are filled anew less often.

Where more processes compute than there are cores, Linux lets each run for a few milliseconds and then the next, which
finds the caches full of another's data. Training gains nothing from that: with four processes on two cores its steps
took 11 % more processor time, with slices of 100 ms 4 % (docs/benchmarks.md). Since Linux 6.12 a thread may say how
long a slice it would like (EEVDF, ``sched_setattr(2)``); a process that needs the core for a moment still gets it
first, because its own slice is shorter. Older kernels ignore the wish, and where it is refused nothing happens.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SLICE_NS = 100_000_000
"""The longest that the kernel grants."""

KERNELS_OWN = 0
SYSTEM_CALLS = {"x86_64": (315, 314), "aarch64": (275, 274)}
"""Numbers of ``sched_getattr`` and ``sched_setattr``, which C libraries before glibc 2.41 do not wrap."""

POLICIES = (0, 3)
"""SCHED_OTHER and SCHED_BATCH: for any other the field means something else."""


class Attributes(ctypes.Structure):
    """``struct sched_attr`` in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


@contextmanager
def long_slices() -> Iterator[None]:
    """The calling thread asks for slices of `SLICE_NS`, and for the kernel's own in the end."""
    _ask_for(SLICE_NS)
    try:
        yield
    finally:
        _ask_for(KERNELS_OWN)


def current_slice() -> int | None:
    """Nanoseconds of the calling thread's slice, as the kernel tells; None where it does not."""
    attributes = _attributes()
    return None if attributes is None or not attributes.runtime else int(attributes.runtime)


def _ask_for(slice_ns: int) -> None:
    attributes = _attributes()
    if attributes is not None:
        attributes.runtime = slice_ns
        _call(1, ctypes.byref(attributes), 0)


def _attributes() -> Attributes | None:
    """Of the calling thread, or None where they cannot be had or are of a policy without such slices."""
    attributes = Attributes()
    found = _call(0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0) == 0
    return attributes if found and attributes.policy in POLICIES else None


def _call(which: int, *arguments: object) -> int:
    numbers = SYSTEM_CALLS.get(platform.machine())
    if sys.platform != "linux" or numbers is None:
        return -1
    return int(ctypes.CDLL(None).syscall(numbers[which], 0, *arguments))
