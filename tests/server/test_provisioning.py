"""The authority: what is signed, what is refused, what ends when, and that no private key is ever lost or shown."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client.identity import load_key, make_identity
from common.errors import StateError
from common.privacy.signing import NODE_CURVES, certified_key
from server.provisioning import AUTHORITY_DAYS, CERTIFICATE_DAYS, Authority, init_authority
from server.registry import Member, SiteRegistry


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return init_authority(tmp_path / "home", addresses=["fl.example.org", "127.0.0.1", "2001:db8::1", "fl.example.org"])


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_the_listeners_certificate_holds_every_name_and_address_once(authority):
    server = certificate((authority.home / "keys" / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("2001:db8::1")]
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    server.verify_directly_issued_by(certificate(authority.ca_certificate))


def test_a_sites_certificate_is_for_clients_only_and_holds_the_key_of_its_request(authority, tmp_path):
    signed = certificate(authority.sign(make_identity(tmp_path / "east", site="east"), site="east"))
    signed.verify_directly_issued_by(certificate(authority.ca_certificate))
    assert signed.public_key() == load_key(tmp_path / "east" / "node.key").public_key()
    assert list(signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    constraints = signed.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert [name.value for name in signed.subject] == ["east"]


def test_the_authority_signs_nothing_but_leaves(authority):
    ca = certificate(authority.ca_certificate)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert usage.key_cert_sign
    assert not usage.digital_signature


def test_private_keys_are_readable_by_their_owner_alone(authority, tmp_path):
    make_identity(tmp_path / "east", site="east")
    keys = [authority.home / "authority" / "ca.key", authority.home / "keys" / "server.key", tmp_path / "east/node.key"]
    assert [stat.S_IMODE(key.stat().st_mode) for key in keys] == [0o600] * 3
    folders = [authority.home / "authority", authority.home / "keys", tmp_path / "east"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3


def test_a_private_key_is_never_overwritten(authority, tmp_path):
    make_identity(tmp_path / "east", site="east")
    before = (tmp_path / "east" / "node.key").read_bytes()
    with pytest.raises(StateError, match="never overwritten"):
        make_identity(tmp_path / "east", site="east")
    assert (tmp_path / "east" / "node.key").read_bytes() == before
    ca = (authority.home / "authority" / "ca.key").read_bytes()
    with pytest.raises(StateError, match="never overwritten"):
        init_authority(authority.home, addresses=["127.0.0.1"])
    assert (authority.home / "authority" / "ca.key").read_bytes() == ca
    assert Authority(authority.home).ca_certificate == authority.ca_certificate


def test_the_private_key_does_not_travel_with_the_request(tmp_path):
    request = make_identity(tmp_path / "east", site="east")
    assert b"PRIVATE" not in request
    assert (tmp_path / "east" / "node.csr").read_bytes() == request


def test_an_authority_needs_an_address_and_a_folder_with_an_authority(tmp_path):
    with pytest.raises(StateError, match="at least one name or address"):
        init_authority(tmp_path, addresses=[])
    with pytest.raises(StateError, match="cannot be read"):
        Authority(tmp_path / "empty")


def test_a_request_must_name_its_site_and_be_signed_by_a_strong_key(authority, tmp_path):
    request = make_identity(tmp_path / "east", site="east")
    with pytest.raises(StateError, match="expected north"):
        authority.sign(request, site="north")
    with pytest.raises(StateError, match="cannot be read"):
        authority.sign(b"nonsense", site="east")
    other = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "east")])
    weak = x509.CertificateSigningRequestBuilder().subject_name(other)
    weak_request = weak.sign(ec.generate_private_key(ec.SECP224R1()), hashes.SHA256())
    with pytest.raises(StateError, match="not signed by a key of P-256 or P-384"):
        authority.sign(weak_request.public_bytes(serialization.Encoding.PEM), site="east")
    assert authority.registry.read() == {}


@pytest.mark.parametrize("curve", NODE_CURVES)
def test_keys_of_both_curves_are_certified_and_read(authority, tmp_path, curve):
    """Hospitals that joined while keys were of P-384 keep theirs."""
    key = ec.generate_private_key(curve())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "node.key").write_bytes(key.private_bytes(*form))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "east")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA384())
    certificate = authority.sign(request.public_bytes(serialization.Encoding.PEM), site="east")
    own = load_key(tmp_path / "node.key")
    assert certified_key(x509.load_pem_x509_certificate(certificate), site="east") == own.public_key()


def test_a_request_whose_signature_is_wrong_is_refused(authority, tmp_path):
    der = bytearray(x509.load_pem_x509_csr(make_identity(tmp_path / "east", site="east")).public_bytes(
        serialization.Encoding.DER
    ))  # fmt: skip
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(StateError):
        authority.sign(forged, site="east")


def test_a_site_is_signed_once_rotated_by_name_and_signed_again_after_it_was_revoked(authority, tmp_path):
    first = authority.sign(make_identity(tmp_path / "a", site="east"), site="east")
    second_request = make_identity(tmp_path / "b", site="east")
    with pytest.raises(StateError, match="has a certificate already"):
        authority.sign(second_request, site="east")
    second = authority.rotate(second_request, site="east")
    assert _fingerprint(second) == authority.registry.read()["east"].certificate_sha256 != _fingerprint(first)
    authority.revoke("east")
    assert authority.registry.read()["east"].revoked
    authority.sign(make_identity(tmp_path / "c", site="east"), site="east")
    assert not authority.registry.read()["east"].revoked
    for unknown in (lambda: authority.revoke("nowhere"), lambda: authority.rotate(second_request, site="nowhere")):
        with pytest.raises(StateError, match="not registered"):
            unknown()


def test_two_sites_cannot_share_a_key(authority, tmp_path):
    authority.sign(make_identity(tmp_path / "east", site="east"), site="east")
    member = authority.registry.read()["east"]
    with pytest.raises(StateError, match="same key as site east"):
        authority.registry.write("north", member)


def test_the_listener_can_be_given_another_name_without_touching_a_kit(authority, tmp_path):
    signed = authority.sign(make_identity(tmp_path / "east", site="east"), site="east")
    key = (authority.home / "keys" / "server.key").read_bytes()
    authority.renew_server(["10.0.0.7"])
    server = certificate((authority.home / "keys" / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.0.0.7")]
    assert (authority.home / "keys" / "server.key").read_bytes() == key
    assert authority.registry.read()["east"].certificate_sha256 == _fingerprint(signed)


def test_what_ends_soon_is_named_soonest_first(authority, tmp_path):
    authority.sign(make_identity(tmp_path / "east", site="east"), site="east")
    now = datetime.now(UTC)
    assert authority.expiring(now=now) == []
    near = authority.expiring(now=now + timedelta(days=CERTIFICATE_DAYS - 30))
    assert [end.name for end in near] == ["the coordinator", "site east"]
    assert near[0].sentence(now + timedelta(days=CERTIFICATE_DAYS - 30)) in (
        "certificate of the coordinator ends in 29 days",
        "certificate of the coordinator ends in 30 days",
    )
    late = now + timedelta(days=AUTHORITY_DAYS + 10)
    assert [end.name for end in authority.expiring(now=late)][-1] == "the authority"
    assert authority.expiring(now=late)[0].sentence(late).endswith("days ago")
    authority.revoke("east")
    assert [end.name for end in authority.expiring(now=now + timedelta(days=CERTIFICATE_DAYS))] == ["the coordinator"]


def test_a_hospitals_own_authority_can_be_trusted_and_its_certificate_enrolled(authority, tmp_path):
    hospital = init_authority(tmp_path / "hospital", addresses=["127.0.0.1"])
    signed = hospital.sign(make_identity(tmp_path / "east", site="east"), site="east")
    authority.trust(hospital.ca_certificate)
    authority.enrol(signed, site="east")
    assert authority.registry.read()["east"].certificate_sha256 == _fingerprint(signed)
    assert (authority.home / "authority" / "trusted.pem").read_bytes() == hospital.ca_certificate
    with pytest.raises(StateError, match="not a PEM certificate"):
        authority.trust(b"nonsense")


def test_a_damaged_registry_is_an_error_and_not_an_empty_list(tmp_path):
    registry = SiteRegistry(tmp_path / "sites.json")
    for content in ("", "[]", "{}", '{"sites": []}', '{"sites": {"east": {}}}', '{"sites": {"east": null}}'):
        registry.path.write_text(content)
        with pytest.raises(StateError, match="cannot be read"):
            registry.read()
    registry.path.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        registry.read()


def test_a_reader_never_sees_half_a_registry(tmp_path):
    registry = SiteRegistry(tmp_path / "sites.json")
    registry.create()
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            registry.write(f"site{number}", Member(f"key{number}", "0" * 64, "2030-01-01T00:00:00+00:00"))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    sizes = []
    while not done.is_set():
        sizes.append(len(registry.read()))
    writer.join()
    assert sizes == sorted(sizes)
    assert len(json.loads(registry.path.read_text())["sites"]) == 60


def _fingerprint(pem: bytes) -> str:
    return certificate(pem).fingerprint(hashes.SHA256()).hex()
