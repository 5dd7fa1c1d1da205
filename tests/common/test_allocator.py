"""What `loading` promises of Python's collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from common.allocator import loading


@pytest.fixture(autouse=True)
def collector_as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_meanwhile_and_afterwards_as_before(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled() == collecting


def test_what_was_made_meanwhile_is_not_looked_at_again() -> None:
    with loading():
        made = [[i] for i in range(1000)]
    assert gc.get_freeze_count() > 0
    assert not any(found is made for found in gc.get_objects())


def test_a_library_that_is_missing_leaves_the_collector_on() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
