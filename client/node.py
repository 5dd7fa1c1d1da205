"""The hospital's persistent Flower node: connects outward, waits, answers, and comes back after every failure.

One process keeps data, models and device in memory between requests. It speaks Flower's Fleet API with Flower's own
client, over mutual TLS, and never asks for code: what answers is the installed `client.site.Site`. A request is
confirmed only after its reply has left, so a site that dies is asked the same again when it returns.

Nothing here gives up: every failure is waited out with a bounded back-off, and said once in one sentence.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, TypeVar

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
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
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.flower_app import Answer, make_app
from client.identity import load_key
from common.allocator import keep_buffers
from common.errors import MessageError, StateError
from common.wire import Limits, inflate_record

HEARTBEAT_S = 5.0
HEARTBEAT_INTERVAL_S = 30.0
"""What the node declares to Flower: it counts as gone after two of these. A longer silence, while C code holds the
interpreter, costs nothing but that: a reply is taken whenever it comes before the coordinator's deadline."""

TIMEOUT_S = 60.0
"""For one HTTP request; longer than the coordinator's long poll."""

BACK_OFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0)
WORTH_REPEATING = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
PARALLEL = 2
"""Objects fetched or sent at the same time, as Flower's own client does."""

Result = TypeVar("Result")
OnEvent = Callable[[str], None]


class Endpoint(Protocol):
    """The part of ``site.toml`` that says how the coordinator is reached (`common.config.site.CoordinatorConfig`)."""

    @property
    def address(self) -> str: ...
    @property
    def ca(self) -> Path: ...
    @property
    def node_key(self) -> Path: ...
    @property
    def certificate(self) -> Path: ...


@dataclass(frozen=True)
class NodeConnection:
    """Where the coordinator is and who we are.

    Parameters
    ----------
    address : str
        ``host:port``, with [ ] around an IPv6 address.
    ca : Path
        The only authority that is trusted for the coordinator's certificate.
    node_key, certificate : Path
        This site's P-384 key and its certificate, for TLS and for Flower's signatures alike.
    """

    address: str
    ca: Path
    node_key: Path
    certificate: Path

    @classmethod
    def of(cls, endpoint: Endpoint) -> NodeConnection:
        """The connection that a ``site.toml`` names."""
        return cls(endpoint.address, endpoint.ca, endpoint.node_key, endpoint.certificate)

    def tls(self) -> ssl.SSLContext:
        """TLS 1.3 with our certificate, trusting the consortium's authority alone.

        Raises
        ------
        StateError
            If a file is missing or damaged, or key and certificate do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.certificate, self.node_key)
        except OSError as error:  # ssl.SSLError is one too
            raise StateError(f"{self.ca}, {self.certificate} or {self.node_key} cannot be used: {error}") from error
        return context


@dataclass(frozen=True)
class Knock:
    """What the coordinator says to a site that asks nothing: HTTP status, its sentence, its clock if it tells it."""

    status: int
    sentence: str
    clock: datetime | None


def knock(connection: NodeConnection) -> Knock:
    """Send one signed request that changes nothing at the coordinator, through any proxy, as the node itself would.

    The request is a heartbeat of node 0, which no site is: a coordinator that lets this site in answers that it does
    not know this node, and any other answer says why it does not.

    Raises
    ------
    StateError
        If key, certificate or authority cannot be used.
    httpx.HTTPError
        If there was no answer.
    """
    client = _Client(connection)
    nobody = SendNodeHeartbeatRequest(node=Node(node_id=0), heartbeat_interval=HEARTBEAT_INTERVAL_S)
    try:
        client.SendNodeHeartbeat(nobody)
    except httpx.HTTPStatusError as error:
        return Knock(error.response.status_code, _detail(error), _clock(error.response))
    finally:
        client.close()
    return Knock(httpx.codes.OK, "", None)


class NotKnownError(Exception):
    """The coordinator does not know this node: it was restarted, or it refuses this site."""


class OutdatedError(Exception):
    """The coordinator no longer wants what was being done."""


class StoppedError(Exception):
    """`serve` was asked to end."""


def serve(
    connection: NodeConnection,
    answer: Answer,
    *,
    stop: threading.Event,
    on_event: OnEvent,
    limits: Limits | None = None,
) -> None:
    """Answer the coordinator's requests until ``stop`` is set.

    Parameters
    ----------
    answer : callable
        ``Site.answer``; it runs in the calling thread, one request at a time.
    on_event : callable
        Told in one sentence whenever the connection comes, goes, or is refused.

    Raises
    ------
    StateError
        If key, certificate or authority cannot be used.
    """
    keep_buffers()
    with _Session(connection, answer, stop, on_event, limits or Limits()) as session:
        while not stop.is_set():
            try:
                session.introduce()
                while True:
                    session.answer_next()
            except NotKnownError as error:
                on_event(f"introducing this site to {connection.address} again: {error}")
            except StoppedError:
                break


class _Client(FleetHttpClient):  # type: ignore[misc]  # flwr is read as Any
    """Flower's Fleet client with our own TLS and patience."""

    def __init__(self, connection: NodeConnection) -> None:
        key = load_key(connection.node_key)
        self.public_key = public_key_to_bytes(key.public_key())
        super().__init__(
            f"https://{connection.address}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
            verify=connection.tls(),
            timeout=TIMEOUT_S,
        )


class _Session:
    """The connection to one coordinator, with its heartbeat."""

    def __init__(
        self, connection: NodeConnection, answer: Answer, stop: threading.Event, on_event: OnEvent, limits: Limits
    ) -> None:
        self._address = connection.address
        self._stop = stop
        self._on_event = on_event
        self._limits = limits
        self._client = _Client(connection)
        self._app = make_app(answer, limits=limits)
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
        if _status(error) == httpx.codes.UNAUTHORIZED and self._busy.is_set():
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
                    _raise_if_final(error)
                reason = _reason(error)
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


def _status(error: httpx.HTTPError) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def _raise_if_final(error: httpx.HTTPError) -> None:
    """Turn an answer that repeating will not change into what it means."""
    status = _status(error)
    if status == httpx.codes.UNAUTHORIZED:
        raise NotKnownError(_reason(error)) from error
    if status is not None and status < httpx.codes.INTERNAL_SERVER_ERROR and status not in WORTH_REPEATING:
        raise OutdatedError(_reason(error)) from error


def _reason(error: httpx.HTTPError) -> str:
    """Why a call failed, for the hospital's IT."""
    if not isinstance(error, httpx.HTTPStatusError):
        return str(error) or type(error).__name__
    detail = _detail(error)
    return f"the coordinator answers {error.response.status_code}{f' ({detail})' if detail else ''}"


def _clock(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return None


def _detail(error: httpx.HTTPStatusError) -> str:
    """The sentence in an answer of the coordinator; empty where there is none, as from a proxy."""
    try:
        return str(json.loads(error.response.text).get("detail", ""))
    except (ValueError, AttributeError):
        return ""
