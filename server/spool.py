"""`SpooledStore`: Flower's in-memory object store, with a bound: what is beyond it waits on disk.

Sites may send at the same time, while the study reads replies one after the other in a fixed order. So the coordinator
holds what was sent and not yet read, and its memory must not grow with the number of sites.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.wire import CHUNK_BYTES
from server.flower_state import InMemoryObjectStore, ObjectTree, iterate_object_tree

SPOOLED = b"spooled"
"""Stands in memory for the content of an object on disk."""

SLOT_BYTES = CHUNK_BYTES + (1 << 20)
"""Space of one object on disk: Flower's largest chunk and its head."""

DEEPEST = 16
"""Objects below one another in what a site sends; a message, its records, arrays and chunks are five."""


class SpooledStore(InMemoryObjectStore):  # type: ignore[misc]  # flwr is read as Any
    """Objects in memory up to ``memory_bytes``, further ones in slots of one nameless file.

    The file has no name, so nothing of it outlives the process, however that ends.

    Parameters
    ----------
    folder : Path
        On the file system that the file shall use.
    """

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the store
        self._free_bytes = memory_bytes
        self._free_slots: list[int] = []
        self._slots = 0
        self._held: dict[str, int] = {}
        self._spooled: dict[str, tuple[int, int]] = {}
        self._depths: dict[str, int] = {}

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Expect the objects of a tree, in which a registered object stands for all that is below it.

        Raises
        ------
        ValueError
            If objects lie deeper below one another than `DEEPEST`.
        """
        with self.lock_store:
            depths: dict[str, int] = {}
            for node in iterate_object_tree(object_tree):  # children before parents
                below = (depths.get(child.object_id) or self._depths.get(child.object_id, 1) for child in node.children)
                depth = self._depths.get(node.object_id) or 1 + max(below, default=0)
                if depth > DEEPEST:
                    raise ValueError(f"objects lie more than {DEEPEST} deep below one another")
                depths[node.object_id] = max(depth, depths.get(node.object_id, 0))
            missing: list[str] = super().preregister(run_id, object_tree)
            self._depths |= depths
            return missing

    def ids_below(self, root: str) -> set[str]:
        """Ids of an object and of all below it, each looked at once: objects that share others below them, level after
        level, are more by the path than any memory holds.
        """
        with self.lock_store:
            found: set[str] = set()
            waiting = [root]
            while waiting:
                object_id = waiting.pop()
                if object_id not in found and object_id in self.store:
                    found.add(object_id)
                    waiting += self.store[object_id].child_object_ids
            return found

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store a registered object; its id is the hash of its content, so a second one is the same."""
        super().put(object_id, object_content)
        size = len(object_content)
        with self.lock_store:
            if object_id in self._held or object_id in self._spooled:
                return
            if size <= self._free_bytes or size > SLOT_BYTES:
                self._free_bytes -= size
                self._held[object_id] = size
                return
            slot = self._free_slots.pop() if self._free_slots else self._slots
            self._slots = max(self._slots, slot + 1)
            os.pwrite(self._file.fileno(), object_content, slot * SLOT_BYTES)
            self._spooled[object_id] = (slot, size)
            self.store[object_id].content = SPOOLED

    def get(self, object_id: str) -> bytes | None:
        """The content; empty where it has not come yet, None where it is not expected."""
        with self.lock_store:
            if object_id in self._spooled:
                slot, size = self._spooled[object_id]
                return os.pread(self._file.fileno(), size, slot * SLOT_BYTES)
            content: bytes | None = super().get(object_id)
            return content

    def size(self, object_id: str) -> int:
        """Bytes of an object's content; 0 where it has not come, or is not expected."""
        with self.lock_store:
            return self._held.get(object_id, 0) or self._spooled.get(object_id, (0, 0))[1]

    def part(self, object_id: str, start: int, size: int) -> bytes:
        """Some of an object's content; empty where the object is gone: its slot may hold another's by now."""
        with self.lock_store:
            if object_id in self._spooled:
                slot, whole = self._spooled[object_id]
                return os.pread(self._file.fileno(), min(size, whole - start), slot * SLOT_BYTES + start)
            content: bytes = super().get(object_id) or b""
            return content[start : start + size]

    def delete(self, object_id: str) -> None:
        """Forget an object that nothing refers to, and what only it refers to."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store:
                self._free_bytes += self._held.pop(object_id, 0)
                self._depths.pop(object_id, None)
                if object_id in self._spooled:
                    self._free_slots.append(self._spooled.pop(object_id)[0])
