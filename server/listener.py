"""The one port that hospitals reach: Flower's Fleet API, nothing else, for known certificates only.

A plain ASGI application over Flower's own request handlers. Flower's control and runtime APIs, its documentation pages,
self-registration and the download of code do not exist in this process: every other path is 404.

A request that `server.admission` does not let in is answered 401, as Flower's client expects.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectResponse
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from common.wire import CHUNK_BYTES
from server.admission import Admission, AdmissionError
from server.flower_state import fleet_handlers
from server.link_state import FleetState
from server.tls_server import PEER_CERTIFICATE, Receive, Scope, Send

PREFIX = "/v1/fleet/"
PULL = PREFIX + "pull-messages"
PUSH = PREFIX + "push-messages"
PULL_OBJECT = PREFIX + "pull-object"
PUSH_OBJECT = PREFIX + "push-object"
Handler = Callable[[Any, FleetState], Any]
HANDLERS: Mapping[str, Handler] = {
    PREFIX + "activate-node": fleet_handlers.activate_node,
    PREFIX + "deactivate-node": fleet_handlers.deactivate_node,
    PREFIX + "send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    PULL: lambda request, state: fleet_handlers.pull_messages(request, state, state.object_store),
    PUSH: fleet_handlers.push_messages,
    PREFIX + "get-run": fleet_handlers.get_run,
    PUSH_OBJECT: fleet_handlers.push_object,
    PULL_OBJECT: fleet_handlers.pull_object,
    PREFIX + "confirm-message-received": lambda request, state: fleet_handlers.confirm_message_received(
        request, state, state.object_store
    ),
}
"""Flower's handler of each path that exists here."""

PROTOBUF, JSON = PROTOBUF_MEDIA_TYPE.encode(), b"application/json"
MAX_BODY_BYTES = CHUNK_BYTES + (1 << 20)
MAX_OTHER_BYTES = 1 << 18
"""Of a body that carries no chunk: protobuf may make many objects of few bytes."""

BYTES_AN_OBJECT = 128
"""More than an object takes in the tree of a reply."""

MAX_DIGITS = 12
"""Of a content-length."""

BODY_S = 300.0
"""Seconds in which a whole body must come: 20 KB/s for the largest."""

PIECE_BYTES = 256 << 10
"""A response goes out in pieces, each when the one before has left: OpenSSL keeps a buffer of the largest for as long
as the connection lives."""

PARALLEL_UPLOADS = 8
"""Chunks that come in at the same time; the others wait in the network. Bounds memory, as does that chunks are put into
the store one after the other: parsing makes two copies."""

UPLOADS_A_SITE = 4
"""Of these; so one hospital, however slowly it sends, leaves room for the others."""

PARALLEL_DOWNLOADS = 16
"""Chunks that go out at the same time; of each a piece is in memory, and again in the buffers of TLS and the socket."""

CONTENT = PullObjectResponse.OBJECT_CONTENT_FIELD_NUMBER << 3 | 2
"""Tag of a chunk's bytes in Flower's answer, which can so be sent without being in memory."""

LONG_POLL_S = 20.0
WORKERS = 4


@dataclass(frozen=True)
class Reply:
    """What goes back: status, body, whether the connection ends, and an object whose content follows the body."""

    status: int
    body: bytes
    close: bool = False
    object_id: str = ""
    object_size: int = 0


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
        self._other_bytes = max(MAX_OTHER_BYTES, BYTES_AN_OBJECT * max_objects)
        self._on_refused = on_refused
        self._body_s = body_s
        self._long_poll_s = long_poll_s
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="fedrad-fleet")
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._uploads = asyncio.Semaphore(PARALLEL_UPLOADS)
        self._uploads_of: dict[str, asyncio.Semaphore] = {}
        self._downloads = asyncio.Semaphore(PARALLEL_DOWNLOADS)
        self._storing = asyncio.Lock()
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
            await self._respond(send, Reply(503, b'{"detail":"The coordinator is stopping"}', close=True))
            return
        if scope["type"] != "http" or scope["method"] != "POST" or path not in HANDLERS:
            await self._respond(send, Reply(404, b'{"detail":"Not Found"}'))
            return
        try:
            peer = self._admission.of_certificate(scope["state"].get(PEER_CERTIFICATE))
        except AdmissionError as refused:
            await self._respond(send, replace(self._refused(path, refused), close=True))
            return
        own = self._uploads_of.setdefault(peer.site, asyncio.Semaphore(UPLOADS_A_SITE))
        async with (
            own if path == PUSH_OBJECT else nullcontext(),
            self._uploads if path == PUSH_OBJECT else nullcontext(),
        ):
            body = await self._read(scope, receive)
            if body is None:
                return
            async with self._storing if path == PUSH_OBJECT else nullcontext():
                reply = body if isinstance(body, Reply) else await self._answer(scope, path, body, receive)
        if reply is not None:
            async with self._downloads if reply.object_size else nullcontext():
                await self._respond(send, reply)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Reply | None:
        """The body; or what to reply instead of reading on; or None where the peer is gone."""
        too_large = Reply(413, b'{"detail":"Request body is too large"}', close=True)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        most = MAX_BODY_BYTES if scope["path"] == PUSH_OBJECT else self._other_bytes
        if not declared.isdigit() or len(declared) > MAX_DIGITS or int(declared) > most:
            return too_large
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_s):
                while sum(map(len, pieces)) <= most:
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
        if path != PULL:
            return await loop.run_in_executor(self._workers, self._reply, path, certificate, headers, body)
        admitted = await loop.run_in_executor(self._workers, self._admit, path, certificate, headers, body)
        return admitted if isinstance(admitted, Reply) else await self._pull(admitted, receive)

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
                over = self._closing or loop.time() >= end or self._state.generation.get(node_id) != generation
                if reply.body or over:
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

    def _reply(self, path: str, certificate: bytes | None, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        """To a request that waits for nothing."""
        admitted = self._admit(path, certificate, headers, body)
        return admitted if isinstance(admitted, Reply) else self._handle(path, admitted)

    def _admit(self, path: str, certificate: bytes | None, headers: Mapping[bytes, bytes], body: bytes) -> Any:
        """The parsed request of a peer that is let in, or the refusal."""
        request = PROTOBUF_REQUEST_TYPES["POST", path]()
        try:
            request.ParseFromString(body)
            self._admission.check(certificate, headers, request)
        except DecodeError:
            return Reply(400, b'{"detail":"Invalid protobuf payload"}')
        except AdmissionError as refused:
            return self._refused(path, refused)
        if path == PUSH and _objects(request) > self._max_objects:
            return Reply(413, b'{"detail":"Reply has too many objects"}')
        return request

    def _refused(self, path: str, why: AdmissionError) -> Reply:
        self._on_refused(f"refused {path.removeprefix(PREFIX)}: {why}")
        return Reply(401, json.dumps({"detail": str(why)}).encode())

    def _handle(self, path: str, request: Any) -> Reply:
        if path == PULL_OBJECT and request.run_id == self._state.run_id:
            size = self._state.store.size(request.object_id)
            if size:
                found = PullObjectResponse(object_found=True, object_available=True).SerializeToString()
                head = found + _varint(CONTENT) + _varint(size)
                return Reply(200, head, object_id=request.object_id, object_size=size)
        try:
            if path == PUSH_OBJECT and request.run_id == self._state.run_id:
                # as Flower's handler, which takes the content out of the request twice
                names = request.run_id, request.session_id, request.object_id
                return Reply(
                    200,
                    PushObjectResponse(
                        stored=self._state.store_object(*names, request.object_content)
                    ).SerializeToString(),
                )
            return Reply(200, HANDLERS[path](request, self._state).SerializeToString())
        except FlowerError as error:
            specification = API_ERROR_MAP[error.code]
            payload = error.to_json(specification.public_message)
            return Reply(specification.http_status_code, json.dumps(payload).encode())
        except (ValueError, KeyError, IndexError) as error:  # what Flower's handlers raise on nonsense of a known peer
            self._on_refused(f"{path.removeprefix(PREFIX)} failed: {error!r}")
            return Reply(400, b'{"detail":"Invalid request"}')

    async def _respond(self, send: Send, reply: Reply) -> None:
        headers = [
            (b"content-type", PROTOBUF if reply.status == 200 else JSON),
            (b"content-length", str(len(reply.body) + reply.object_size).encode()),
        ]
        if reply.close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await _send_pieces(send, reply.body)
        loop = asyncio.get_running_loop()
        for start in range(0, reply.object_size, PIECE_BYTES):
            part = await loop.run_in_executor(
                self._workers, self._state.store.part, reply.object_id, start, PIECE_BYTES
            )
            if not part:
                return  # the message was withdrawn meanwhile: the server ends the connection in the middle of the body
            await _send_pieces(send, part)
        await send({"type": "http.response.body", "body": b""})  # returns when the peer has taken nearly all


def _objects(request: PushMessagesRequest) -> int:
    """Number of nodes of the object trees of a push, counted without recursion."""
    pending = list(request.message_object_trees)
    count = 0
    while pending:
        count += 1
        pending.extend(pending.pop().children)
    return count


async def _send_pieces(send: Send, content: bytes) -> None:
    body = memoryview(content)
    for start in range(0, len(body), PIECE_BYTES):
        await send({"type": "http.response.body", "body": body[start : start + PIECE_BYTES], "more_body": True})


def _varint(value: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first, the highest bit where more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
