"""`FleetState`: Flower's in-memory link state, made to lose nothing when a site or a connection dies.

Flower hands a message out once and marks it as delivered, whether or not it arrived. Here a message counts as delivered
when its reply is complete: a site that comes back, or asks again, is handed what it has not answered. What the link
state forgets when the process dies is exactly what `server.checkpoint` keeps, so nothing of it is written to disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)

from common.errors import FederationError
from server.flower_state import InMemoryLinkState, NoOpFederationManager
from server.spool import SpooledStore

MESSAGE_TYPE = "query"
MESSAGE_TTL_S = 30 * 86400.0
"""Far beyond any deadline: `ask` withdraws messages itself, and clocks of hospitals may be wrong or jump."""

REGISTERED_INTERVAL_S = 30.0
"""Heartbeat interval of a site until it names its own."""


@dataclass(frozen=True)
class StoredObjects:
    """The objects of one reply, read from the store when they are asked for: of a large reply one is in memory."""

    store: SpooledStore
    ids: set[str]

    def get(self, object_id: str, /) -> bytes | None:
        content: bytes | None = self.store.get(object_id) if object_id in self.ids else None
        return content

    def pop(self, object_id: str, default: None, /) -> object:
        """Let an object go that is not needed again; its content goes with the message."""
        self.ids.discard(object_id)
        return default


@dataclass(frozen=True)
class Arrived:
    """A complete reply: root id and contents of its objects, and when the last one came (monotonic seconds).

    ``objects`` is empty where Flower itself reported an error instead of a reply.
    """

    root: str
    objects: StoredObjects
    at: float


class FleetState(InMemoryLinkState):  # type: ignore[misc]  # flwr is read as Any
    """Link state of one coordinator process with one run.

    Parameters
    ----------
    store : SpooledStore
        Holds requests and replies.
    on_message : callable
        Called with a node id when something waits for that node: wakes its long poll.
    """

    def __init__(self, store: SpooledStore, on_message: Callable[[int], None]) -> None:
        super().__init__(NoOpFederationManager(), store)
        self.store = store
        self.arrival = threading.Condition()
        self.generation: dict[int, int] = {}
        self.departed: set[int] = set()
        self._on_message = on_message
        self._complete: dict[str, float] = {}
        self._reply_of_session: dict[str, str] = {}
        self._nodes_of_sites: dict[str, tuple[str, int]] = {}
        self.run_id = self._start_run()

    # --- the coordinator's side -------------------------------------------------------------------------------

    def sync(self, keys: Mapping[str, str]) -> None:
        """Let exactly these sites in: name -> public key (PEM)."""
        for site, (key, node_id) in list(self._nodes_of_sites.items()):
            if keys.get(site) != key:
                self.delete_node(NOOP_FLWR_AID, node_id)
                del self.node_public_key_to_node_id[key.encode()], self._nodes_of_sites[site]
                self._on_message(node_id)
        for site, key in keys.items():
            if site not in self._nodes_of_sites:
                node_id = self.create_node(
                    NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key.encode(), REGISTERED_INTERVAL_S, name=site
                )
                self._nodes_of_sites[site] = (key, node_id)
                super().activate_node(node_id, REGISTERED_INTERVAL_S)
                super().deactivate_node(node_id)  # "offline" may be sent messages, "registered" may not

    def node_of(self, site: str) -> int | None:
        """The node id of a site that is let in."""
        found = self._nodes_of_sites.get(site)
        return found[1] if found else None

    def online(self) -> set[str]:
        """Sites whose last heartbeat is recent enough."""
        return {str(node.name) for node in self.get_node_info(statuses=[NodeStatus.ONLINE])}

    def send(self, records: Iterable[tuple[int, RecordDict]]) -> list[str]:
        """Store a message for each node and return the message ids. Equal records are stored once."""
        message_ids: list[str] = []
        with no_object_id_recompute():
            for node_id, record in records:
                message = make_message(metadata=self._metadata(node_id), content=record)
                message_id = message.object_id
                message.metadata.__dict__["_message_id"] = message_id
                session = self.start_session(self.run_id)
                objects = get_all_nested_objects(message)
                for object_id in self.preregister_object_tree(get_object_tree(message), session):
                    super().store_object(self.run_id, session, object_id, objects[object_id].deflate())
                if self.store_message_ins(remove_content_from_message(message)) is None:
                    raise FederationError(f"message for node {node_id} was refused by the link state")
                message_ids.append(message_id)
                self._on_message(node_id)
        return message_ids

    def reply_to(self, message_id: str) -> Arrived | None:
        """The complete reply to a message, to be read until the message is withdrawn; None while there is none."""
        with self.arrival:
            at = self._complete.get(message_id)  # stays until the message is gone: a poll must not re-arm it meanwhile
        if at is None:
            return None
        with self.lock:
            reply = self.message_res_store[self.message_ins_id_to_message_res_id[message_id]]
        root = reply.metadata.message_id
        ids: set[str] = set()
        if not reply.has_error():
            ids |= self.object_store.ids_below(root)
        return Arrived(root, StoredObjects(self.object_store, ids), at)

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Forget messages and whatever of their replies has come; what comes later is dropped."""
        for message_id in message_ids:
            with self.lock:
                reply_id = self.message_ins_id_to_message_res_id.get(message_id)
                self.delete_messages({message_id})
            for object_id in (message_id, reply_id):
                if object_id is not None:
                    self.object_store.delete(object_id)
            with self.arrival:
                self._complete.pop(message_id, None)

    def delivered(self, message_id: str) -> bool:
        """True where the site has begun to fetch the message."""
        message = self.message_ins_store.get(message_id)
        return message is not None and message.metadata.delivered_at != ""

    # --- what the sites' requests reach (overrides of Flower's link state) --------------------------------------

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Let a node in at once, though its former process still counts as online."""
        with self.lock:
            super().deactivate_node(node_id)
            activated = bool(super().activate_node(node_id, heartbeat_interval))
            self.departed.discard(node_id)
        self._end_polls(node_id)
        return activated

    def deactivate_node(self, node_id: int) -> bool:
        """Let a node go; its long poll ends."""
        self.departed.add(node_id)
        deactivated = bool(super().deactivate_node(node_id))
        self._end_polls(node_id)
        return deactivated

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        """What waits for a node; what it fetched and did not answer is among it."""
        with self.lock:
            for message_id, message in list(self.message_ins_store.items()):
                if message.metadata.dst_node_id == node_id and message.metadata.delivered_at != "":
                    self._rearm(message_id, message)
            return list(super().get_message_ins(node_id, limit, run_id=run_id))

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a reply; remember which message its objects will complete."""
        stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        answered = message.metadata.reply_to_message_id
        if stored and missing:
            self._reply_of_session[session_id] = answered
        elif stored:
            self._completed(answered)
        return stored, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Store one object of a reply; the last one completes it."""
        stored = bool(super().store_object(run_id, session_id, object_id, object_content))
        if session_id not in self._object_push_sessions:
            answered = self._reply_of_session.pop(session_id, None)
            if stored and answered is not None:
                self._completed(answered)
        return stored

    def _cleanup_expired_task_tokens_locked(self) -> None:
        """A run ends when the coordinator ends it, not when its process was suspended for a minute."""

    # ----------------------------------------------------------------------------------------------------------

    def _end_polls(self, node_id: int) -> None:
        self.generation[node_id] = self.generation.get(node_id, 0) + 1
        self._on_message(node_id)
        with self.arrival:
            self.arrival.notify_all()

    def _completed(self, message_id: str) -> None:
        with self.arrival:
            if message_id in self.message_ins_store:
                self._complete.setdefault(message_id, monotonic())
                self.arrival.notify_all()

    def _rearm(self, message_id: str, message: Message) -> None:
        """Make an unanswered message deliverable again; a reply that stayed incomplete is dropped."""
        if message_id in self._complete:
            return
        reply_id = self.message_ins_id_to_message_res_id.pop(message_id, None)
        if reply_id is not None:
            del self.message_res_store[reply_id]
            self.object_store.delete(reply_id)
        message.metadata.delivered_at = ""

    def _metadata(self, node_id: int) -> Metadata:
        return Metadata(
            run_id=self.run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id="",
            created_at=now().timestamp(),
            ttl=MESSAGE_TTL_S,
            message_type=MESSAGE_TYPE,
        )

    def _start_run(self) -> int:
        run_id: Any = self.create_run(
            "fedrad/fedrad", "0", None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task_id = self.get_run_info(run_ids=[run_id])[0].primary_task_id
        if self.claim_task(task_id) is None or not self.activate_task(task_id):
            raise FederationError("Flower's link state did not start the run")
        return int(run_id)
