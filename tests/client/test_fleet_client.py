"""The node's signature is Flower's own, header by header."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime, timedelta

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import verify_signature
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.fleet_client import NodeSignature

KEY = ec.generate_private_key(ec.SECP384R1())


def sent(interceptor: NodeSignature | NodeAuthHttpInterceptor) -> httpx.Headers:
    request = httpx.Request("POST", "https://coordinator/v1/fleet/send-node-heartbeat")
    context = ProtobufRequestContext("/flwr.proto.Fleet/SendNodeHeartbeat", SendNodeHeartbeatRequest(), request)
    answer = interceptor.intercept(context, lambda passed: httpx.Response(200, request=passed.request))
    return answer.request.headers


def test_the_headers_are_those_of_flowers_own_node() -> None:
    ours, theirs = sent(NodeSignature(KEY)), sent(NodeAuthHttpInterceptor(KEY, KEY.public_key()))
    assert set(ours) == set(theirs)
    assert ours[FLEET_HTTP_PUBLIC_KEY_HEADER] == theirs[FLEET_HTTP_PUBLIC_KEY_HEADER]
    first, second = (datetime.fromisoformat(headers[TIMESTAMP_HEADER]) for headers in (theirs, ours))
    assert first.tzinfo == second.tzinfo == UTC
    assert abs(first - second) < timedelta(seconds=5)


def test_the_signature_is_one_of_the_time_by_the_nodes_key() -> None:
    headers = sent(NodeSignature(KEY))
    time, signature = headers[TIMESTAMP_HEADER].encode("ascii"), b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER])
    assert verify_signature(KEY.public_key(), time, signature)
    assert not verify_signature(KEY.public_key(), time + b"0", signature)
    assert not verify_signature(ec.generate_private_key(ec.SECP384R1()).public_key(), time, signature)
