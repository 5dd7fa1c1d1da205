"""`kernel`: numba's compiler with a cache on disk, and without one where nothing may be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function of arrays and numbers to machine code on its first call.

    The machine code is kept beside the source, or in the user's cache folder where the installation is read-only, so
    the next process loads it in milliseconds. Where neither can be written, each process compiles anew. Rounding is
    that of the source: no reordering of sums and no fused multiply-add.
    """
    try:
        compiled: Function = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no folder that it may write a cache to
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled
