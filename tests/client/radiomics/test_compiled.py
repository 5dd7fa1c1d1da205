"""Kernels compile where nothing may be written, too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numba
import pytest

from client.radiomics import compiled


def test_a_read_only_installation_compiles_without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refusing(**options: Any) -> Callable[..., Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "numba", SimpleNamespace(njit=refusing))

    def twice(x: float) -> float:
        return 2 * x

    assert compiled.kernel(twice)(4.0) == 8.0
    assert [options.get("cache", False) for options in asked] == [True, False]
