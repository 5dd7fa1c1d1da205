"""The one port that hospitals reach: Flower's Fleet API, nothing else, for known certificates only.

A plain ASGI application over Flower's own request handlers. Flower's control and runtime APIs, its documentation pages,
self-registration and the download of code do not exist in this process: every other path is 404.

A request is let in when all of these hold, and is 401 otherwise, as Flower's client expects:

- the peer's TLS certificate is, to the byte, the one that is registered for a site and not revoked;
- the node key in the header is the key of that certificate, and its signature of the time stamp is valid;
- the time stamp is near the coordinator's clock, and this signature was not seen before;
- the node id in the body belongs to that key, and a reply names it as its sender.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from common.wire import CHUNK_BYTES
from server.link_state import FleetState
from server.registry import SiteRegistry
from server.tls_server import PEER_CERTIFICATE, Receive, Scope, Send

PREFIX = "/v1/fleet/"
PULL = PREFIX + "pull-messages"
PUSH = PREFIX + "push-messages"
Handler = Callable[[Any, FleetState], Any]
HANDLERS: Mapping[str, Handler] = {
    PREFIX + "activate-node": fleet_handlers.activate_node,
    PREFIX + "deactivate-node": fleet_handlers.deactivate_node,
    PREFIX + "send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    PULL: lambda request, state: fleet_handlers.pull_messages(request, state, state.object_store),
    PUSH: fleet_handlers.push_messages,
    PREFIX + "get-run": fleet_handlers.get_run,
    PREFIX + "push-object": fleet_handlers.push_object,
    PREFIX + "pull-object": fleet_handlers.pull_object,
    PREFIX + "confirm-message-received": lambda request, state: fleet_handlers.confirm_message_received(
        request, state, state.object_store
    ),
}
"""Flower's handler of each path that exists here."""

PUBLIC_KEY, SIGNATURE, TIMESTAMP = (
    name.lower().encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)
PROTOBUF, JSON = PROTOBUF_MEDIA_TYPE.encode(), b"application/json"
MAX_BODY_BYTES = CHUNK_BYTES + (1 << 20)
CLOCK_TOLERANCE_S = 300.0
BODY_S = 300.0
"""Seconds in which a whole body must come: 20 KB/s for the largest."""

PIECE_BYTES = 256 << 10
"""A response goes out in pieces, each when the one before has left: OpenSSL keeps a buffer of the largest for as long
as the connection lives."""

TRANSFERS = (PREFIX + "push-object", PREFIX + "pull-object")
PARALLEL_TRANSFERS = 16
"""Chunks that are on their way at the same time, in or out; the others wait in the network. Bounds memory."""

LONG_POLL_S = 20.0
WORKERS = 4


@dataclass(frozen=True)
class Reply:
    """What goes back: status, body, and whether the connection ends."""

    status: int
    body: bytes
    close: bool = False


@dataclass(frozen=True)
class Peer:
    """A site that is let in."""

    site: str
    public_key: bytes
    verifier: ec.EllipticCurvePublicKey


class AdmissionError(Exception):
    """The request is not let in; the sentence goes to the site, which may tell its own IT."""


class Admission:
    """Decides who is let in; follows the registry file.

    Parameters
    ----------
    registry : SiteRegistry
    state : FleetState
        Told of every change of the registry.
    """

    def __init__(self, registry: SiteRegistry, state: FleetState) -> None:
        self._registry = registry
        self._state = state
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._peers: dict[str, Peer] = {}
        self._seen: set[int] = set()
        self._seen_order: deque[tuple[float, int]] = deque()
        self.follow()

    def follow(self) -> tuple[str, ...]:
        """Read the registry again if it changed; the names of the sites that are let in."""
        with self._lock:
            stamp = self._registry.stamp()
            if stamp != self._stamp:
                members = {site: m for site, m in self._registry.read().items() if not m.revoked}
                self._peers = {
                    m.certificate_sha256: Peer(site, m.public_key.encode(), bytes_to_public_key(m.public_key.encode()))
                    for site, m in members.items()
                }
                self._state.sync({site: member.public_key for site, member in members.items()})
                self._stamp = stamp
            return tuple(sorted(peer.site for peer in self._peers.values()))

    def check(self, certificate: bytes | None, headers: Mapping[bytes, bytes], request: Any) -> Peer:
        """The peer that sent a request.

        Raises
        ------
        AdmissionError
            If it is not let in.
        """
        self.follow()
        peer = self._peers.get(hashlib.sha256(certificate or b"").hexdigest())
        if peer is None:
            raise AdmissionError("certificate is not registered here, or was revoked or replaced")
        try:
            public_key = b64decode(headers[PUBLIC_KEY], validate=True)
            signature = b64decode(headers[SIGNATURE], validate=True)
            timestamp = headers[TIMESTAMP]
            age = (now() - datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
            unique = decode_dss_signature(signature)[0]
        except (KeyError, ValueError, TypeError) as error:
            raise AdmissionError("request is not signed by a node key") from error
        if public_key != peer.public_key or not verify_signature(peer.verifier, timestamp, signature):
            raise AdmissionError("node key and TLS certificate differ, or the signature is wrong")
        if abs(age) > CLOCK_TOLERANCE_S:
            raise AdmissionError(f"clocks differ by {age:.0f} s, at most {CLOCK_TOLERANCE_S:.0f} s are accepted")
        if not self._first_time(unique):
            raise AdmissionError("request was sent before")
        self._require_own_node(peer, request)
        return peer

    def _require_own_node(self, peer: Peer, request: Any) -> None:
        if isinstance(request, ActivateNodeRequest):
            if request.public_key != peer.public_key:
                raise AdmissionError("request activates another node")
            return
        node_id = request.node.node_id if hasattr(request, "node") else request.node_id
        if self._state.get_node_id_by_public_key(peer.public_key) != node_id:
            raise AdmissionError("node id is not known here")
        if isinstance(request, PushMessagesRequest):
            senders = {message.metadata.src_node_id for message in request.messages_list}
            if len(request.messages_list) != 1 or senders != {node_id}:
                raise AdmissionError("reply names another sender")

    def _first_time(self, unique: int) -> bool:
        """False where a signature with this random part came within the tolerance; memory is bounded by time."""
        with self._lock:
            current = monotonic()
            while self._seen_order and self._seen_order[0][0] < current - 2 * CLOCK_TOLERANCE_S:
                self._seen.discard(self._seen_order.popleft()[1])
            if unique in self._seen:
                return False
            self._seen.add(unique)
            self._seen_order.append((current, unique))
            return True


class FleetListener:
    """The ASGI application.

    Parameters
    ----------
    state : FleetState
    admission : Admission
    max_objects : int
        Objects that a reply may be made of.
    on_refused : callable
        Told in one sentence who was not let in and why.
    """

    def __init__(
        self,
        state: FleetState,
        admission: Admission,
        *,
        max_objects: int,
        on_refused: Callable[[str], None],
        body_s: float = BODY_S,
        long_poll_s: float = LONG_POLL_S,
    ) -> None:
        self._state = state
        self._admission = admission
        self._max_objects = max_objects
        self._on_refused = on_refused
        self._body_s = body_s
        self._long_poll_s = long_poll_s
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="fedrad-fleet")
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._transfers = asyncio.Semaphore(PARALLEL_TRANSFERS)
        self._closing = False

    def wake(self, node_id: int) -> None:
        """End the long polls of a node, to look again; call it in the event loop's thread."""
        for event in self._waiting.get(node_id, ()):
            event.set()

    def close(self) -> None:
        """End all long polls; call it in the event loop's thread."""
        self._closing = True
        for node_id in list(self._waiting):
            self.wake(node_id)

    def release(self) -> None:
        """End the worker threads, after the last request."""
        self._workers.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        if self._closing:
            await _respond(send, Reply(503, b'{"detail":"The coordinator is stopping"}', close=True))
            return
        if scope["type"] != "http" or scope["method"] != "POST" or path not in HANDLERS:
            await _respond(send, Reply(404, b'{"detail":"Not Found"}'))
            return
        async with self._transfers if path in TRANSFERS else nullcontext():
            body = await self._read(scope, receive)
            if body is None:
                return
            reply = body if isinstance(body, Reply) else await self._answer(scope, path, body, receive)
            if reply is not None:
                await _respond(send, reply)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Reply | None:
        """The body; or what to reply instead of reading on; or None where the peer is gone."""
        too_large = Reply(413, b'{"detail":"Request body is too large"}', close=True)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
            return too_large
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_s):
                while sum(map(len, pieces)) <= MAX_BODY_BYTES:
                    event = await receive()
                    if event["type"] != "http.request":
                        return None
                    pieces.append(event["body"])
                    if not event.get("more_body"):
                        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except TimeoutError:
            return Reply(408, b'{"detail":"Request body did not arrive in time"}', close=True)
        return too_large

    async def _answer(self, scope: Scope, path: str, body: bytes, receive: Receive) -> Reply | None:
        loop = asyncio.get_running_loop()
        headers = dict(scope["headers"])
        certificate = scope["state"].get(PEER_CERTIFICATE)
        admitted = await loop.run_in_executor(self._workers, self._admit, path, certificate, headers, body)
        if isinstance(admitted, Reply):
            return admitted
        if path == PULL:
            return await self._pull(admitted, receive)
        return await loop.run_in_executor(self._workers, self._handle, path, admitted)

    async def _pull(self, request: PullMessagesRequest, receive: Receive) -> Reply | None:
        """Wait until there is a message, the time is over, the node came back elsewhere, or this peer is gone."""
        node_id = request.node.node_id
        generation = self._state.generation.get(node_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + (0.0 if node_id in self._state.departed else self._long_poll_s)
        event = asyncio.Event()
        self._waiting.setdefault(node_id, set()).add(event)
        gone = asyncio.ensure_future(receive())
        try:
            while True:
                event.clear()
                reply = await loop.run_in_executor(self._workers, self._handle, PULL, request)
                if reply.body or loop.time() >= end or self._state.generation.get(node_id) != generation:
                    return reply
                ready = asyncio.ensure_future(event.wait())
                await asyncio.wait({ready, gone}, timeout=end - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                ready.cancel()
                if gone.done():
                    return None
                if self._closing or self._state.generation.get(node_id) != generation:
                    return Reply(200, b"")
        finally:
            gone.cancel()
            self._waiting[node_id].discard(event)

    def _admit(self, path: str, certificate: bytes | None, headers: Mapping[bytes, bytes], body: bytes) -> Any:
        """The parsed request of a peer that is let in, or the refusal."""
        request = PROTOBUF_REQUEST_TYPES["POST", path]()
        try:
            request.ParseFromString(body)
            self._admission.check(certificate, headers, request)
        except DecodeError:
            return Reply(400, b'{"detail":"Invalid protobuf payload"}')
        except AdmissionError as refused:
            self._on_refused(f"refused {path.removeprefix(PREFIX)}: {refused}")
            return Reply(401, json.dumps({"detail": str(refused)}).encode())
        if path == PUSH and _objects(request) > self._max_objects:
            return Reply(413, b'{"detail":"Reply has too many objects"}')
        return request

    def _handle(self, path: str, request: Any) -> Reply:
        try:
            return Reply(200, HANDLERS[path](request, self._state).SerializeToString())
        except FlowerError as error:
            specification = API_ERROR_MAP[error.code]
            payload = error.to_json(specification.public_message)
            return Reply(specification.http_status_code, json.dumps(payload).encode())
        except (ValueError, KeyError, IndexError) as error:  # what Flower's handlers raise on nonsense of a known peer
            self._on_refused(f"{path.removeprefix(PREFIX)} failed: {error!r}")
            return Reply(400, b'{"detail":"Invalid request"}')


def _objects(request: PushMessagesRequest) -> int:
    """Number of nodes of the object trees of a push, counted without recursion."""
    pending = list(request.message_object_trees)
    count = 0
    while pending:
        count += 1
        pending.extend(pending.pop().children)
    return count


async def _respond(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", PROTOBUF if reply.status == 200 else JSON),
        (b"content-length", str(len(reply.body)).encode()),
    ]
    if reply.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = memoryview(reply.body)
    for start in range(0, len(body), PIECE_BYTES):
        await send({"type": "http.response.body", "body": body[start : start + PIECE_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": b""})  # returns when the peer has taken nearly all
