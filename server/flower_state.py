"""Flower's link state and object store in memory, without the databases that its packages offer beside them.

The packages load SQLAlchemy and Alembic, 30 MB and a third of a CPU-second, for two classes that a coordinator never
makes. While this file imports the two classes in memory, stand-ins that cannot be made take the place of the others.
Where Flower's own modules are loaded already, as in a stock SuperLink, nothing takes their place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from common.errors import FederationError

UNUSED = {
    "flwr.supercore.object_store.sql_object_store": "SqlObjectStore",
    "flwr.server.superlink.linkstate.sql_linkstate": "SqlLinkState",
}
"""Modules that are left out, and the class of each that Flower's packages import from it."""


class NotLoaded:
    """Stands for a class of Flower's that keeps its state in a database."""

    def __init__(self, *_: object) -> None:
        raise FederationError("this process holds its link state in memory: Flower's databases are not loaded")


@contextmanager
def _without_databases() -> Iterator[None]:
    left_out = [name for name in UNUSED if name not in sys.modules]
    for name in left_out:
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], UNUSED[name], NotLoaded)
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


with _without_databases():
    from flwr.proto.message_pb2 import ObjectTree as ObjectTree
    from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState as InMemoryLinkState
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree as iterate_object_tree
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore as InMemoryObjectStore
    from flwr.superlink.federation import NoOpFederationManager as NoOpFederationManager
    from flwr.superlink.servicer.fleet import fleet_handlers as fleet_handlers
