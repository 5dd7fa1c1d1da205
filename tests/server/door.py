"""The hospitals' port with a consortium behind it, and peers that speak to it by hand."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from client.identity import load_key
from server.coordinator import FlowerFederation
from server.provisioning import Authority

ACTIVATE = "/v1/fleet/activate-node"


class Site:
    """A peer at the level of HTTP: a certificate, a node key, and requests signed by hand."""

    def __init__(self, home: Path, port: int, *, certificate: Path | None = None, key: Path | None = None) -> None:
        self.key = load_key(home / "node.key")
        context = ssl.create_default_context(cafile=home / "ca.pem")
        context.load_cert_chain(certificate or home / "node.pem", key or home / "node.key")
        self.http = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False, timeout=10)

    def headers(self, key: ec.EllipticCurvePrivateKey | None = None, *, age_s: float = 0.0) -> dict[str, str]:
        key = key or self.key
        timestamp = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
        signature = sign_message(key, timestamp.encode())
        return {
            "flwr-public-key": b64encode(public_key_to_bytes(key.public_key())).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": b64encode(signature).decode(),
        }

    @property
    def public_key(self) -> bytes:
        return public_key_to_bytes(self.key.public_key())

    def post(self, path: str, message, *, headers: dict[str, str] | None = None) -> httpx.Response:
        content = message if isinstance(message, bytes) else message.SerializeToString()
        return self.http.post(path, content=content, headers=self.headers() if headers is None else headers)

    def activate(self, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.post(
            ACTIVATE, ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=30), headers=headers
        )

    def node(self) -> Node:
        return Node(node_id=ActivateNodeResponse.FromString(self.activate().content).node_id)


class Door:
    """A running federation and its authority."""

    def __init__(self, home: Path, authority: Authority, federation: FlowerFederation, events: list[str]) -> None:
        self.home, self.authority, self.federation, self.events = home, authority, federation, events
        self.port = federation.port
        self.east = Site(home / "east", self.port)


def detail(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    return response.json()["detail"]


def tls(door: Door) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=door.home / "east" / "ca.pem")
    context.load_cert_chain(door.home / "east" / "node.pem", door.home / "east" / "node.key")
    raw = socket.create_connection(("127.0.0.1", door.port), timeout=10)
    return context.wrap_socket(raw, server_hostname="127.0.0.1")


def until_closed(peer: ssl.SSLSocket) -> bytes:
    received = b""
    while piece := peer.recv(4096):
        received += piece
    return received
