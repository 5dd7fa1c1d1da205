"""Flower's Fleet client with this site's TLS, and a knock on the coordinator's door."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.connection import NodeConnection, detail_of
from client.identity import load_key

HEARTBEAT_INTERVAL_S = 30.0
"""What the node declares to Flower: it counts as gone after two of these. A longer silence, while C code holds the
interpreter, costs nothing but that: a reply is taken whenever it comes before the coordinator's deadline."""

TIMEOUT_S = 60.0
"""For one HTTP request; longer than the coordinator's long poll."""


class FleetClient(FleetHttpClient):  # type: ignore[misc]  # flwr is read as Any
    """Flower's Fleet client with our own TLS and patience.

    ``HTTPS_PROXY`` and ``NO_PROXY`` of the environment are followed: TLS goes through the proxy unopened (CONNECT).
    """

    _client: httpx.Client

    def __init__(self, connection: NodeConnection) -> None:
        key = load_key(connection.node_key)
        self.public_key = public_key_to_bytes(key.public_key())
        super().__init__(
            f"https://{connection.address}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
            verify=connection.tls(),
            timeout=TIMEOUT_S,
        )
        if connection.is_loopback:  # a hospital's proxy cannot reach this machine's own loopback
            self._client.close()
            self._client = httpx.Client(verify=connection.tls(), timeout=TIMEOUT_S, trust_env=False)


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
    client = FleetClient(connection)
    nobody = SendNodeHeartbeatRequest(node=Node(node_id=0), heartbeat_interval=HEARTBEAT_INTERVAL_S)
    try:
        client.SendNodeHeartbeat(nobody)
    except httpx.HTTPStatusError as error:
        return Knock(error.response.status_code, detail_of(error), _clock(error.response))
    finally:
        client.close()
    return Knock(httpx.codes.OK, "", None)


def _clock(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return None
