"""Who does not get in, and what does not exist behind the one port."""

from __future__ import annotations

import socket
import ssl
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from client.identity import load_key, make_identity
from common.errors import FederationError
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.provisioning import Authority, _authority_identifier, init_authority
from tests.deployment import consortium, join
from tests.server.door import ACTIVATE, Site, detail


def test_a_registered_site_gets_in_and_counts_as_online(door):
    assert door.federation.sites() == ()
    assert door.east.activate().status_code == 200
    assert door.federation.sites() == ("east",)
    assert door.federation.registered() == ("east", "north")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/redoc", "/openapi.json", "/health", "/v1/control/start-run", "/v1/control/register-node",
        "/v1/control/list-nodes", "/v1/runtime/acquire-task", "/v1/runtime/push-messages", "/v1/fleet/register-node",
        "/v1/fleet/unregister-node", "/v1/fleet/get-fab", "/v1/fleet/", "/v1/fleet/../control/start-run",
    ],
)  # fmt: skip
def test_nothing_but_the_fleet_api_exists(door, path):
    assert door.east.post(path, b"").status_code == 404
    assert door.east.http.get(path).status_code == 404


def test_fleet_paths_take_nothing_but_posts(door):
    assert door.east.http.get(ACTIVATE).status_code == 404
    assert door.east.http.put(ACTIVATE, content=b"").status_code == 404


def test_without_a_certificate_not_even_a_404_comes_back(door):
    context = ssl.create_default_context(cafile=door.home / "east" / "ca.pem")
    with httpx.Client(verify=context, trust_env=False) as stranger, pytest.raises(httpx.TransportError):
        stranger.get(f"https://127.0.0.1:{door.port}/")


def test_a_certificate_of_another_authority_is_refused_in_the_handshake(door, tmp_path):
    other = init_authority(tmp_path / "other", addresses=["127.0.0.1"])
    join(other, tmp_path / "other", "east")
    (tmp_path / "other" / "east" / "ca.pem").write_bytes(door.authority.ca_certificate)
    stranger = Site(tmp_path / "other" / "east", door.port)
    with pytest.raises(httpx.TransportError):
        stranger.activate()
    stranger.http.close()


def test_an_expired_certificate_is_refused_in_the_handshake(door):
    folder = door.home / "east"
    expired = folder / "expired.pem"
    expired.write_bytes(_expired_certificate(door.authority, Site(folder, door.port).key.public_key()))
    late = Site(folder, door.port, certificate=expired)
    with pytest.raises(httpx.TransportError):
        late.activate()
    late.http.close()


def test_a_site_refuses_a_coordinator_of_another_name(door):
    context = ssl.create_default_context(cafile=door.home / "east" / "ca.pem")
    context.load_cert_chain(door.home / "east" / "node.pem", door.home / "east" / "node.key")
    with (
        httpx.Client(verify=context, trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="not valid for 'localhost'"),
    ):
        client.get(f"https://localhost:{door.port}/")


def test_plain_http_and_old_tls_find_nobody(door):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{door.port}/", trust_env=False)
    context = ssl.create_default_context(cafile=door.home / "east" / "ca.pem")
    context.load_cert_chain(door.home / "east" / "node.pem", door.home / "east" / "node.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=context, trust_env=False) as client, pytest.raises(httpx.ConnectError):
        client.get(f"https://127.0.0.1:{door.port}/")


def test_a_signed_but_unregistered_site_is_refused(door):
    members = door.authority.registry.read()
    join(door.authority, door.home, "west")
    door.authority.registry._save(members)  # as if the coordinator's list had been restored from a backup
    stranger = Site(door.home / "west", door.port)
    refused = stranger.activate()
    assert refused.status_code == 401
    assert "not registered" in detail(refused)
    stranger.http.close()


def test_a_revoked_site_is_out_at_its_next_request_and_the_others_stay(door):
    north = Site(door.home / "north", door.port)
    assert door.east.activate().status_code == north.activate().status_code == 200
    door.authority.revoke("east")
    refused = door.east.post("/v1/fleet/pull-messages", PullMessagesRequest(node=Node(node_id=1)))
    assert refused.status_code == 401
    assert "revoked" in detail(refused)
    assert north.activate().status_code == 200
    assert door.federation.sites() == ("north",)
    north.http.close()


def test_after_rotation_the_former_key_is_refused_and_the_new_one_let_in(door):
    assert door.east.activate().status_code == 200
    folder = door.home / "east"
    request = make_identity(folder, site="east", key_file="new.key")
    (folder / "new.pem").write_bytes(door.authority.rotate(request, site="east"))
    assert door.east.activate().status_code == 401
    rotated = Site(folder, door.port, certificate=folder / "new.pem", key=folder / "new.key")
    rotated.key = load_key(folder / "new.key")
    assert rotated.activate().status_code == 200
    assert door.federation.sites() == ("east",)
    rotated.http.close()


def test_a_replayed_request_is_refused(door):
    headers = door.east.headers()
    assert door.east.activate(headers).status_code == 200
    again = door.east.activate(headers)
    assert (again.status_code, detail(again)) == (401, "request was sent before")
    r, s = decode_dss_signature(_signature(headers))
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)  # of P-256
    twin = {**headers, "flwr-signature": b64encode(encode_dss_signature(r, order - s)).decode()}  # valid as well
    assert detail(door.east.activate(twin)) == "request was sent before"


@pytest.mark.parametrize("age_s", [-400, 400])
def test_a_request_of_another_time_is_refused_and_told_by_how_much(door, age_s):
    refused = door.east.activate(door.east.headers(age_s=age_s))
    assert refused.status_code == 401
    assert f"clocks differ by {age_s} s" in detail(refused)


def test_a_skew_that_hospitals_have_is_accepted(door):
    assert door.east.activate(door.east.headers(age_s=-60)).status_code == 200


def test_the_node_key_must_be_the_key_of_the_certificate(door):
    """A site cannot speak for another one, though it has a certificate of its own."""
    north = load_key(door.home / "north" / "node.key")
    request = ActivateNodeRequest(public_key=public_key_to_bytes(north.public_key()), heartbeat_interval=30)
    refused = door.east.post(ACTIVATE, request, headers=door.east.headers(north))
    assert (refused.status_code, "differ" in detail(refused)) == (401, True)
    refused = door.east.post(ACTIVATE, request)
    assert (refused.status_code, detail(refused)) == (401, "request activates another node")


def test_a_wrong_signature_and_missing_headers_are_refused(door):
    forged = {**door.east.headers(), "flwr-timestamp": datetime.now(UTC).isoformat()}
    assert "signature is wrong" in detail(door.east.activate(forged))
    for name in ("flwr-public-key", "flwr-timestamp", "flwr-signature"):
        for value in (None, "", "%%%", "AAAA", "nonsense"):
            headers = {key: text for key, text in door.east.headers().items() if key != name}
            if value is not None:
                headers[name] = value
            assert door.east.activate(headers).status_code == 401


def test_a_site_cannot_act_as_the_node_of_another(door):
    north = Site(door.home / "north", door.port)
    other = north.node()
    for path, message in [
        ("/v1/fleet/pull-messages", PullMessagesRequest(node=other)),
        ("/v1/fleet/send-node-heartbeat", SendNodeHeartbeatRequest(node=other, heartbeat_interval=30)),
        ("/v1/fleet/push-object", PushObjectRequest(node=other, run_id=1, object_id="x", object_content=b"x")),
    ]:
        assert door.east.post(path, message).status_code == 401
    own = door.east.node()
    reply = Message(metadata=Metadata(run_id=1, src_node_id=other.node_id, reply_to_message_id="x"))
    push = PushMessagesRequest(node=own, messages_list=[reply], message_object_trees=[ObjectTree(object_id="x")])
    refused = door.east.post("/v1/fleet/push-messages", push)
    assert (refused.status_code, detail(refused)) == (401, "reply names another sender")
    north.http.close()


def test_refusals_are_told_to_the_coordinator(door):
    door.east.activate(door.east.headers(age_s=400))
    assert door.events == ["refused activate-node: clocks differ by 400 s, at most 300 s are accepted"]


def test_it_listens_on_ipv6_and_ipv4_at_once(tmp_path):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no dual-stack IPv6")
    consortium(tmp_path, sites=("east",), addresses=("::1", "127.0.0.1", "localhost"))
    with FlowerFederation(CoordinatorSettings(tmp_path, "[::]:0")) as federation:
        context = ssl.create_default_context(cafile=tmp_path / "east" / "ca.pem")
        context.load_cert_chain(tmp_path / "east" / "node.pem", tmp_path / "east" / "node.key")
        for host in ("127.0.0.1", "[::1]", "localhost"):
            with httpx.Client(verify=context, trust_env=False) as client:
                assert client.get(f"https://{host}:{federation.port}/").status_code == 404


def test_a_taken_port_is_named(door):
    second = FlowerFederation(CoordinatorSettings(door.home, f"127.0.0.1:{door.port}"))
    with pytest.raises(FederationError, match="cannot listen on"), second:
        pass


def _signature(headers: dict[str, str]) -> bytes:
    return b64decode(headers["flwr-signature"])


def _expired_certificate(authority: Authority, key: ec.EllipticCurvePublicKey) -> bytes:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "east")]))
        .issuer_name(authority._certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now - timedelta(days=1))
        .add_extension(_authority_identifier(authority._certificate), critical=False)
        .sign(authority._key(), hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
