"""`SpooledStore`: Flower's in-memory object store, with a bound: what is beyond it waits on disk.

Sites may send at the same time, while the study reads replies one after the other in a fixed order. So the coordinator
holds what was sent and not yet read, and its memory must not grow with the number of sites.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

SPOOLED = b"spooled"
"""Stands in memory for the content of an object on disk."""


class SpooledStore(InMemoryObjectStore):  # type: ignore[misc]  # flwr is read as Any
    """Objects in memory up to ``memory_bytes``, further ones in files of their own.

    Parameters
    ----------
    folder : Path
        Emptied now: what a killed process left there is of no use to anyone.
    """

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        super().__init__()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._folder = folder
        self._free = memory_bytes
        self._held: dict[str, int] = {}

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store a registered object; its id is the hash of its content, so a second one is the same."""
        super().put(object_id, object_content)
        with self.lock_store:
            if object_id in self._held:
                return
            size = len(object_content)
            if size <= self._free:
                self._free -= size
                self._held[object_id] = size
                return
            self._held[object_id] = 0
            (self._folder / object_id).write_bytes(object_content)
            self.store[object_id].content = SPOOLED

    def get(self, object_id: str) -> bytes | None:
        """The content; empty where it has not come yet, None where it is not expected."""
        with self.lock_store:
            content: bytes | None = super().get(object_id)
            return (self._folder / object_id).read_bytes() if content is SPOOLED else content

    def delete(self, object_id: str) -> None:
        """Forget an object that nothing refers to, and what only it refers to."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store and object_id in self._held:
                size = self._held.pop(object_id)
                self._free += size
                if not size:
                    (self._folder / object_id).unlink()
