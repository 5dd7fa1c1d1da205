"""Every test begins with the same draws, in whatever order and process it runs."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """torch's generator is one for the process: a test that draws from it would hang on those before it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
