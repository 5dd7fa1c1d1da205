"""One function a decoder: damaged input of a seed goes in; it is refused by name or understood, in bounded memory."""

from __future__ import annotations

import asyncio
import random
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from common.codec import decode, encode
from common.compression import Bfloat16, Compressor, StochasticInt8, TopK
from common.errors import MessageError
from common.messages import Done, Finish, StatisticSums
from common.wire import Limits, decode_message, encode_message, inflate_record
from server.admission import Peer
from server.link_state import FleetState
from server.listener import HANDLERS, PREFIX, PULL, PUSH, PUSH_OBJECT, FleetListener
from server.spool import SpooledStore
from tests.common.messages_strategy import same
from tests.fuzz.damage import LARGE, MESSAGES, SEEDS, damaged_arrays, damaged_bytes, damaged_json

_PATHS = {
    ActivateNodeRequest: PREFIX + "activate-node",
    PushMessagesRequest: PUSH,
    PushObjectRequest: PUSH_OBJECT,
    PullObjectRequest: PREFIX + "pull-object",
}

SLACK_BYTES = 8 << 20
FACTOR = 40
"""Most bytes of memory for a byte of input: a Python object for each of JSON's tokens, and no more."""

LIMITS = Limits(header_bytes=1 << 20, array_bytes=1 << 20, arrays=64)


@contextmanager
def bounded(n_bytes: int) -> Iterator[None]:
    """Fail where the block allocates much more than its input measures."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < FACTOR * n_bytes + SLACK_BYTES, f"{peak} bytes of memory for {n_bytes} bytes of input"


def codec(rng: random.Random) -> None:
    """`common.codec.decode` of a damaged message."""
    header, arrays = rng.choice(SEEDS)
    if rng.random() < 0.5:
        header = damaged_json(rng, header)
    if rng.random() < 0.7:
        header = damaged_bytes(rng, header)
    changed = damaged_arrays(rng, arrays) if rng.random() < 0.5 else list(arrays)
    with bounded(len(header) + sum(array.nbytes for array in changed)):
        try:
            message = decode(header, changed)
        except MessageError:
            return
        again = decode(*encode(message))
    assert same(again, message)


def random_bytes(rng: random.Random) -> None:
    """`common.codec.decode` of noise."""
    header = rng.randbytes(rng.randint(0, 400))
    with bounded(len(header)):
        try:
            decode(header, [])
        except MessageError:
            return
    raise AssertionError("random bytes are a message")


def wire(rng: random.Random) -> None:
    """`inflate_record` and `decode_message` of damaged, missing and exchanged Flower objects."""
    root, objects = objects_of(encode_message(rng.choice((*MESSAGES, LARGE))).record)
    names = sorted(objects)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(names)
        match rng.randint(0, 3):
            case 0:
                objects.pop(name, None)
            case 1:
                objects[name] = objects.get(rng.choice(names), b"")
            case 2:
                kind, _, _ = objects.get(name, b"").partition(b" ")
                body = damaged_bytes(rng, objects.get(name, b"").partition(b"\0")[2])
                children = ",".join(rng.choices(names, k=rng.randint(0, 4))).encode()
                objects[name] = kind + b" " + children + b" %d\0" % len(body) + body
            case _:
                objects[name] = damaged_bytes(rng, objects.get(name, b""))
    with bounded(sum(map(len, objects.values()))):
        try:
            message = decode_message(inflate_record(root, objects, LIMITS), LIMITS)
        except MessageError:
            return
    assert same(decode_message(encode_message(message).record, LIMITS), message)


def compressed(rng: random.Random) -> None:
    """The codes of `common.compression`, damaged."""
    code: Compressor = rng.choice([Bfloat16(), StochasticInt8(64), TopK(0.1)])
    n = rng.randint(0, 300)
    values = np.random.default_rng(rng.getrandbits(32)).normal(size=n)
    data = code.compress(values, np.random.default_rng(0)).tobytes()
    data = damaged_bytes(rng, data) if rng.random() < 0.5 else rng.randbytes(len(data))
    with bounded(len(data) + 4 * n):
        try:
            found = code.decompress(np.frombuffer(data, np.uint8), n)
        except MessageError:
            return
    assert found.shape == (n,)
    assert np.isfinite(found).all()


def listener(rng: random.Random) -> None:
    """Bodies of a site that is let in, damaged: an answer for each, and an honest site gets its request afterwards."""
    state, app = _listening()
    node = Node(node_id=state.node_of("east") or 0)
    (message_id,) = state.send([(node.node_id, encode_message(Finish("d", "completed")).record)])
    request = rng.choice(_bodies(state, node, message_id))
    own = _PATHS.get(type(request), PULL)
    path = own if rng.random() < 0.8 else rng.choice(sorted(HANDLERS))
    body = request.SerializeToString()
    if rng.random() < 0.8:
        body = damaged_bytes(rng, body)
    with bounded(len(body)):
        status = asyncio.run(_post(app, path, body))
    assert status == 200 or 400 <= status < 600
    state.withdraw([message_id])
    north = state.node_of("north") or 0
    (honest,) = state.send([(north, encode_message(Done()).record)])
    assert [message.metadata.message_id for message in state.get_message_ins(north, 1)] == [honest]
    state.withdraw([honest])


TARGETS: Mapping[str, Callable[[random.Random], None]] = {
    target.__name__: target for target in (codec, random_bytes, wire, compressed, listener)
}


def objects_of(record: RecordDict) -> tuple[str, dict[str, bytes]]:
    """What Flower would send for a record: the root's id and the content of every object."""
    message = make_message(metadata=Metadata(1, "", 1, 2, "", "", 1e9, 60.0, "query"), content=record)
    return message.object_id, {name: value.deflate() for name, value in get_all_nested_objects(message).items()}


class LetsIn:
    """Stands where `server.admission` does, behind which only known sites come: this one lets all in."""

    def of_certificate(self, _: object) -> Peer:
        """A known site's."""
        return Peer("east", b"key of east", None)  # type: ignore[arg-type]  # what it verifies is not read here

    def check(self, *_: object) -> None:
        """Let in."""


@cache
def _listening() -> tuple[FleetState, FleetListener]:
    state = FleetState(SpooledStore(Path(tempfile.gettempdir()), memory_bytes=1 << 20), lambda _: None)
    state.sync({"east": "key of east", "north": "key of north"})
    app = FleetListener(state, LetsIn(), max_objects=20, on_refused=lambda _: None, long_poll_s=0.01)  # type: ignore[arg-type]
    return state, app


def _bodies(state: FleetState, node: Node, message_id: str) -> list[Any]:
    """A valid body of every kind; the reply has been begun, so that its objects are awaited."""
    record = encode_message(StatisticSums(3, {"x": np.arange(4.0)})).record
    metadata = Metadata(state.run_id, "", node.node_id, 1, message_id, "", now().timestamp(), 60.0, "query")
    reply = make_message(metadata=metadata, content=record)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    objects = {name: value.deflate() for name, value in get_all_nested_objects(reply).items()}
    head, tree, session = remove_content_from_message(reply), get_object_tree(reply), state.start_session(state.run_id)
    state.store_message_and_object_tree(head, tree, session)
    deep = ObjectTree(object_id="a" * 64)
    for _ in range(60):
        deep = ObjectTree(object_id="a" * 64, children=[deep])
    known = {"node": node, "run_id": state.run_id}
    return [
        ActivateNodeRequest(public_key=b"key of east", heartbeat_interval=30),
        PullMessagesRequest(node=node),
        *[
            PushMessagesRequest(node=node, messages_list=[message_to_proto(head)], message_object_trees=[shape])
            for shape in (tree, deep)
        ],
        *[
            PushObjectRequest(**known, object_id=name, object_content=content, session_id=session)
            for name, content in objects.items()
        ],
        PullObjectRequest(**known, object_id=message_id),
    ]


async def _post(app: FleetListener, path: str, body: bytes) -> int:
    statuses: list[int] = []
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.sleep(3600)
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "state": {}}
    await app(scope, receive, send)
    assert len(statuses) == 1
    assert path.startswith(PREFIX)
    return statuses[0]
