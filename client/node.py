"""The hospital's persistent Flower node: connects outward, waits, answers, and comes back after every failure.

One process keeps data, models and device in memory between requests. It speaks Flower's Fleet API with Flower's own
client, over mutual TLS, and never asks for code: what answers is the installed `client.site.Site`. A request is
confirmed only after its reply has left, so a site that dies is asked the same again when it returns.

Nothing here gives up: every failure is waited out with a bounded back-off, and said once in one sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from client.connection import (
    NodeConnection,
    NotKnownError,
    OutdatedError,
    StoppedError,
    raise_if_final,
    reason_of,
    status_of,
)
from client.fleet_client import HEARTBEAT_INTERVAL_S, TIMEOUT_S, FleetClient, Knock, knock
from client.flower_app import Answer, OnMalformed, make_app
from common.allocator import keep_buffers
from common.errors import MessageError
from common.wire import Limits, inflate_record

HEARTBEAT_S = 5.0
"""Between two signs of life; also how soon a restarted coordinator is noticed while an answer is computed."""

BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0)
UNUSED_BYTES = 64 << 20
"""Of its heap that a site keeps: each step of a training frees its activations, and the next one needs them again."""

PARALLEL = 2
"""Objects fetched or sent at the same time, as Flower's own client does."""

__all__ = ["Knock", "NodeConnection", "knock", "serve"]

Result = TypeVar("Result")
OnEvent = Callable[[str], None]


def serve(
    connection: NodeConnection,
    answer: Answer,
    *,
    stop: threading.Event,
    on_event: OnEvent,
    limits: Limits | None = None,
    on_malformed: OnMalformed | None = None,
) -> None:
    """Answer the coordinator's requests until ``stop`` is set.

    Parameters
    ----------
    answer : callable
        ``Site.answer``; it runs in the calling thread, one request at a time.
    on_event : callable
        Told in one sentence whenever the connection comes, goes, or is refused.
    limits : Limits, optional
        What a request may measure.
    on_malformed : callable, optional
        Told why what arrived is no request.

    Raises
    ------
    StateError
        If key, certificate or authority cannot be used.
    """
    keep_buffers(unused_bytes=UNUSED_BYTES)
    accepted = limits or Limits()
    app = make_app(answer, limits=accepted, on_malformed=on_malformed)
    with _Session(connection, app, stop, on_event, accepted) as session:
        while not stop.is_set():
            try:
                session.introduce()
                while True:
                    session.answer_next()
            except NotKnownError as error:
                on_event(f"introducing this site to {connection.address} again: {error}")
            except StoppedError:
                break


class _Session:
    """The connection to one coordinator, with its heartbeat."""

    def __init__(
        self, connection: NodeConnection, app: ClientApp, stop: threading.Event, on_event: OnEvent, limits: Limits
    ) -> None:
        self._address = connection.address
        self._stop = stop
        self._on_event = on_event
        self._limits = limits
        self._client = FleetClient(connection)
        self._app = app
        self._node: Node | None = None
        self._introducing = threading.Lock()
        self._busy = threading.Event()
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="fedrad-objects")
        self._pulse = threading.Thread(target=self._beat, name="fedrad-heartbeat", daemon=True)

    def __enter__(self) -> _Session:
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._stop.is_set():
            self._pulse.join(TIMEOUT_S)
        self._client.close()

    def introduce(self) -> None:
        """Tell the coordinator that this site is here, however long that takes."""
        with self._introducing:
            self._node = None
        self._insist(self._activate, known=False)
        self._on_event(f"connected to {self._address}")

    def answer_next(self) -> None:
        """Wait for a request, answer it, and confirm it after the reply has left."""
        if self._stop.is_set():
            raise StoppedError
        node = self._node
        waiting = self._insist(lambda: self._client.PullMessages(PullMessagesRequest(node=node)))
        if self._stop.is_set():
            raise StoppedError
        if not waiting.messages_list:
            return
        head, tree = message_from_proto(waiting.messages_list[0]), waiting.message_object_trees[0]
        try:
            request = self._fetch(head, tree)
            reply, seconds = self._answer(request)
            self._send(reply, seconds=seconds)
            confirmation = ConfirmMessageReceivedRequest(
                node=self._node, run_id=head.metadata.run_id, message_object_id=tree.object_id
            )
            self._insist(lambda: self._client.ConfirmMessageReceived(confirmation))
        except OutdatedError as error:
            self._on_event(f"a reply was not taken: {error or 'the coordinator went on without it'}")

    def _answer(self, request: Message) -> tuple[Message, float]:
        """The site's reply and how long it took."""
        started = monotonic()
        self._busy.set()
        try:
            reply = self._app(request, _context(request))
        finally:
            self._busy.clear()
        if self._node is None or self._node.node_id != request.metadata.dst_node_id:
            raise OutdatedError
        return reply, monotonic() - started

    def _fetch(self, head: Message, tree: ObjectTree) -> Message:
        """The request with its content; where it is not one, with an empty record, which the app refuses."""
        ids = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
        record = RecordDict()
        try:
            if len(ids) > self._limits.objects:
                raise MessageError(f"request of {len(ids)} objects, at most {self._limits.objects} are accepted")
            contents = self._pool.map(partial(self._fetch_object, head.metadata.run_id), ids)
            record = inflate_record(tree.object_id, dict(zip(ids, contents, strict=True)), self._limits)
        except MessageError as error:
            self._on_event(f"a request cannot be read: {error}")
        return make_message(metadata=head.metadata, content=record)

    def _fetch_object(self, run_id: int, object_id: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        found = self._insist(lambda: self._client.PullObject(request))
        if not found.object_found or not found.object_available:
            raise OutdatedError
        return bytes(found.object_content)

    def _send(self, reply: Message, *, seconds: float) -> None:
        """Send the reply until the coordinator has all of it."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            push = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
        complete = False
        while not complete:
            accepted = self._insist(lambda: self._client.PushMessages(push))
            store = partial(self._send_object, reply.metadata.run_id, accepted.session_id, objects)
            complete = all(self._pool.map(store, accepted.objects_to_push))

    def _send_object(self, run_id: int, session: str, objects: dict[str, Any], object_id: str) -> bool:
        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            object_id=object_id,
            object_content=objects[object_id].deflate(),
            session_id=session,
        )
        return bool(self._insist(lambda: self._client.PushObject(request)).stored)

    def _activate(self) -> None:
        with self._introducing:
            request = ActivateNodeRequest(public_key=self._client.public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)

    def _beat(self) -> None:
        """Say that we are here, also while a request is being answered; on the way out say good-bye."""
        while not self._stop.wait(HEARTBEAT_S):
            node = self._node
            if node is None:
                continue
            try:
                self._client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
                )
            except httpx.HTTPError as error:
                self._meet_again(error)
        with self._introducing:  # an introduction under way is finished first
            node = self._node
        if node is not None:
            with suppress(httpx.HTTPError):  # a coordinator that is gone need not hear it
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))

    def _meet_again(self, error: httpx.HTTPError) -> None:
        """Introduce this site to a restarted coordinator while the answer to the former one is still being computed."""
        if status_of(error) == httpx.codes.UNAUTHORIZED and self._busy.is_set():
            with suppress(httpx.HTTPError):  # tried again at the next beat
                self._activate()

    def _insist(self, call: Callable[[], Result], *, known: bool = True) -> Result:
        """The result of a call to the coordinator, repeated until it can be reached.

        Raises
        ------
        NotKnownError, OutdatedError
            Where repeating does not help; never while this site introduces itself (``known`` is False).
        StoppedError
            If the process is to end.
        """
        told = ""
        for delay in chain(BACK_OFF_S, repeat(BACK_OFF_S[-1])):
            if self._stop.is_set() and told:
                raise StoppedError
            try:
                result = call()
            except httpx.HTTPError as error:
                if known:
                    raise_if_final(error)
                reason = reason_of(error)
            else:
                if told:
                    self._on_event(f"{self._address} answers again")
                return result
            if reason != told:
                self._on_event(f"waiting for {self._address}: {reason}")
                told = reason
            if self._stop.wait(delay):
                raise StoppedError
        raise AssertionError("the delays never end")


def _context(message: Message) -> Context:
    """What Flower hands to an app beside the message; fedrad's app needs none of it."""
    metadata = message.metadata
    return Context(
        run_id=metadata.run_id, node_id=metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={}
    )
