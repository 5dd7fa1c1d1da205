"""Long time slices hold as long as the thread trains."""

from __future__ import annotations

import os

import pytest

from client.training.time_slices import SLICE_NS, current_slice, long_slices


def grants_slices() -> bool:
    """Whether this kernel tells slices: Linux since 6.12."""
    return bool(current_slice())


@pytest.mark.skipif(not grants_slices(), reason="this kernel does not tell the slice of a thread")
def test_the_thread_has_long_slices_within_and_its_former_ones_after():
    before = current_slice()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with long_slices():
        assert current_slice() == SLICE_NS
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice
    assert current_slice() == before
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice


def test_a_kernel_that_refuses_changes_nothing(monkeypatch):
    monkeypatch.setattr("client.training.time_slices.SYSTEM_CALLS", {})
    with long_slices():
        assert current_slice() is None
