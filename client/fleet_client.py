"""Flower's Fleet client with this site's TLS, and a knock on the coordinator's door."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.connection import NodeConnection, detail_of
from client.identity import load_key

HEARTBEAT_INTERVAL_S = 30.0
"""What the node declares to Flower: it counts as gone after two of these. A longer silence, while C code holds the
interpreter, costs nothing but that: a reply is taken whenever it comes before the coordinator's deadline."""

TIMEOUT_S = 60.0
"""For one HTTP request; longer than the coordinator's long poll."""


class NodeSignature:
    """Signs every request with the node's key, as Flower's ``NodeAuthHttpInterceptor`` does.

    That class itself is not used because its package loads FastAPI and the servers of Flower: 0.15 CPU-seconds in every
    site's process. A test compares what both send.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = b64encode(public_key_to_bytes(key.public_key())).decode("ascii")

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send the request on with key, time and signature of the time in its headers."""
        time = datetime.now(UTC).isoformat()
        signature = b64encode(sign_message(self._key, time.encode("ascii"))).decode("ascii")
        headers = context.request.headers
        headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = self._public
        headers[TIMESTAMP_HEADER], headers[FLEET_HTTP_SIGNATURE_HEADER] = time, signature
        answer: httpx.Response = call_next(context)
        return answer


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
            interceptors=[NodeSignature(key)],
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
