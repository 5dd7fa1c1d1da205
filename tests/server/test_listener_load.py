"""Requests that are too large, too slow or nonsense: cut off, and the port stays open for the others."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from time import monotonic, sleep

import httpx
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node

import server.tls_server as tls_module
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.listener import MAX_BODY_BYTES
from tests.deployment import consortium
from tests.server.door import ACTIVATE, Door, tls, until_closed


def test_nonsense_of_a_known_site_is_an_error_and_leaves_the_door_open(door):
    assert door.east.post(ACTIVATE, b"\xff\xff\xff").status_code == 400
    node = door.east.node()
    assert door.east.post("/v1/fleet/push-messages", PushMessagesRequest(node=node)).status_code == 401
    trees = PushMessagesRequest(
        node=node,
        messages_list=[Message(metadata=Metadata(run_id=1, src_node_id=node.node_id))],
        message_object_trees=[ObjectTree(object_id="x", children=[ObjectTree(object_id="y")] * 1000)],
    )
    assert door.east.post("/v1/fleet/push-messages", trees).status_code == 413
    assert door.east.post("/v1/fleet/push-messages", _deep(node)).status_code in (400, 413)
    assert door.east.activate().status_code == 200


def test_an_oversized_body_is_refused_before_it_is_read(door):
    with tls(door) as peer:
        head = f"POST {ACTIVATE} HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        peer.sendall(head.encode())
        assert until_closed(peer).startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_cut_off(door):
    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 20)

    try:
        status = door.east.http.post(ACTIVATE, content=pieces()).status_code
    except httpx.TransportError:  # the connection was closed while we were still sending
        status = 413
    assert status == 413


def test_a_slow_body_is_cut_off(door):
    door.federation._listener._body_s = 0.2
    with tls(door) as peer:
        peer.sendall(b"POST /v1/fleet/activate-node HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nx")
        answer = until_closed(peer)
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_slow_head_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(tls_module, "HEAD_S", 0.3)
    authority = consortium(tmp_path, sites=("east",))
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        door = Door(tmp_path, authority, federation, [])
        with tls(door) as peer:
            assert not _survives(peer, seconds=3)
        door.east.http.close()


def test_an_empty_poll_ends_after_its_time(door):
    node = door.east.node()
    started = monotonic()
    answer = door.east.post("/v1/fleet/pull-messages", PullMessagesRequest(node=node))
    assert 0.25 < monotonic() - started < 3
    assert not PullMessagesResponse.FromString(answer.content).messages_list


def _deep(node: Node) -> bytes:
    """A push whose object tree is deeper than a parser should follow."""
    tree = ObjectTree(object_id="leaf")
    for _ in range(90):
        tree = ObjectTree(object_id="x", children=[tree])
    message = Message(metadata=Metadata(run_id=1, src_node_id=node.node_id))
    many = [ObjectTree(object_id="y", children=[tree] * 10)]
    return PushMessagesRequest(node=node, messages_list=[message], message_object_trees=many).SerializeToString()


def _survives(peer: ssl.SSLSocket, *, seconds: float) -> bool:
    """Trickle a head, one byte after the other; False as soon as the connection is cut."""
    for _ in range(int(seconds / 0.05)):
        try:
            peer.sendall(b"x")
        except OSError:
            return False
        sleep(0.05)
    return True
