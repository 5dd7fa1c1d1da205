"""A running federation for the tests of its port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.coordinator import CoordinatorSettings, FlowerFederation
from server.spool import SpooledStore
from tests.deployment import consortium
from tests.server.door import Door


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    authority = consortium(tmp_path, sites=("east", "north"))
    events: list[str] = []
    settings = CoordinatorSettings(tmp_path, "127.0.0.1:0", long_poll_s=0.3)
    with FlowerFederation(settings, on_event=events.append) as federation:
        open_door = Door(tmp_path, authority, federation, events)
        yield open_door
        open_door.east.http.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpooledStore]:
    """An empty store of objects in a folder of its own."""
    folder = tmp_path / "spool"
    folder.mkdir()
    store = SpooledStore(folder, memory_bytes=1 << 20)
    yield store
    store.close()
