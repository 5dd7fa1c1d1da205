"""Requests that are too large, too slow or nonsense: cut off, and the port stays open for the others."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node

import server.tls_server as tls_module
from server.coordinator import MOST_FILES, CoordinatorSettings, FlowerFederation
from server.listener import MAX_BODY_BYTES, PARALLEL_UPLOADS
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


SLOW_UPLOAD = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx"


def held(door: Door, home: Path) -> list[ssl.SSLSocket]:
    """Twice as many slow uploads as there are places."""
    context = ssl.create_default_context(cafile=home / "ca.pem")
    context.load_cert_chain(home / "node.pem", home / "node.key")
    peers = []
    for _ in range(2 * PARALLEL_UPLOADS):
        raw = socket.create_connection(("127.0.0.1", door.port), timeout=10)
        peers.append(context.wrap_socket(raw, server_hostname="127.0.0.1"))
        peers[-1].sendall(SLOW_UPLOAD)
    sleep(0.3)
    return peers


@pytest.mark.parametrize("revoked", [True, False])
def test_slow_uploads_of_one_peer_leave_room_for_the_others(door, revoked):
    """A revoked certificate is known before a body is read; a hospital that is let in has a part of the places."""
    if revoked:
        door.authority.revoke("north")
    peers = held(door, door.home / "north")
    upload = PushObjectRequest(node=door.east.node(), run_id=1, object_id="x" * 64, object_content=b"x", session_id="s")
    started = monotonic()
    assert door.east.post("/v1/fleet/push-object", upload).status_code in (200, 400)
    assert monotonic() - started < 5
    for peer in peers:
        if revoked:
            assert until_closed(peer).startswith(b"HTTP/1.1 401")
        peer.close()


def test_the_coordinator_may_hold_more_connections_than_strangers_open_in_a_minute(door):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard or soft >= MOST_FILES


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
