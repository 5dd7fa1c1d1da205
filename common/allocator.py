"""Memory of a long-running process: glibc's allocator, and Python's collector while libraries load.

glibc is told to keep buffers of a few megabytes instead of handing each back to the system at once.
A process that receives model after model otherwise spends a fifth of its time on page faults for memory that it has
just given away (`simulations.benchmarks.deploy`, 50 MB rounds).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
SETTINGS = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 32 << 20, M_TOP_PAD: 4 << 20}
"""Buffers up to 32 MB come from one heap for all threads."""


def keep_buffers(*, unused_bytes: int) -> None:
    """Set glibc's thresholds for this process; where another C library runs, nothing happens.

    Parameters
    ----------
    unused_bytes : int
        How much of the heap's end may be kept though nothing uses it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (SETTINGS | {M_TRIM_THRESHOLD: unused_bytes}).items():
            mallopt(parameter, value)


def give_back() -> None:
    """Hand all pages that no buffer uses back to the system, also those that lie between used ones."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def loading() -> Iterator[None]:
    """Nothing is collected while libraries load, and what they made is never looked at again.

    Modules, classes and functions stay for good, yet each collection walks through all of them: that is an eighth of
    the start of a site's process.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
