"""The consortium's own authority: certificates of the coordinator and of each site, and the list of who may connect.

::

    HOME/authority/ca.key, ca.pem     the authority; keep ca.key offline after the sites are signed
    HOME/authority/sites.json         name -> public key and certificate of each site; the listener reads it again
                                      whenever it changes, so a revoked site is out at its next request
    HOME/keys/server.key, server.pem  what the coordinator's listener shows

Sites make their keys themselves (`client.identity`) and hand over a signing request. Private keys are written with mode
0600 and never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import StateError
from common.files import write_secret
from common.privacy.signing import NODE_CURVES
from server.checkpoint import write_atomic
from server.registry import Member, SiteRegistry

AUTHORITY, KEYS = "authority", "keys"
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
WARNING_DAYS = 60
CLOCK_SKEW = timedelta(hours=24)
"""Certificates are valid from a day ago, because clocks of hospitals differ."""


@dataclass(frozen=True)
class Expiry:
    """A certificate that ends soon, or has ended."""

    name: str
    not_after: datetime

    def sentence(self, now: datetime) -> str:
        days = (self.not_after - now).days
        return f"certificate of {self.name} {'ends in' if days >= 0 else 'ended'} {abs(days)} days{' ago' * (days < 0)}"


class Authority:
    """The authority of one consortium, opened from the coordinator's home folder.

    Raises
    ------
    StateError
        If the folder holds no authority.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._key_path = home / AUTHORITY / "ca.key"
        self.ca_path = home / AUTHORITY / "ca.pem"
        self.registry = SiteRegistry(home / AUTHORITY / "sites.json")
        self._certificate = _read_certificate(self.ca_path)

    @property
    def ca_certificate(self) -> bytes:
        """PEM that every site needs to recognise the coordinator."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate: compare it by telephone when the kit is handed over."""
        return self._certificate.fingerprint(hashes.SHA256()).hex(":")

    def sign(self, request: bytes, *, site: str) -> bytes:
        """Sign a site's request (PEM), register the site, and return its certificate (PEM).

        Raises
        ------
        StateError
            If the request is damaged, names another site, or the site has a certificate already (use `rotate`).
        """
        members = self.registry.read()
        if site in members and not members[site].revoked:
            raise StateError(f"site {site} has a certificate already: rotate it, or revoke it first")
        return self._issue(request, site)

    def rotate(self, request: bytes, *, site: str) -> bytes:
        """Sign a new key of a known site; the former certificate is refused from now on."""
        if site not in self.registry.read():
            raise StateError(f"site {site} is not registered")
        return self._issue(request, site)

    def revoke(self, site: str) -> None:
        """Refuse the site's certificate from its next request on; other sites notice nothing."""
        self.registry.revoke(site)

    def enrol(self, certificate: bytes, *, site: str) -> None:
        """Register a certificate (PEM) that a hospital's own authority issued; that authority must be trusted.

        See `trust`.
        """
        found = _pem_certificate(certificate, "certificate")
        self.registry.write(site, _member(found))

    def trust(self, ca_certificate: bytes) -> None:
        """Accept client certificates of a further authority (PEM); only enrolled ones get in."""
        found = _pem_certificate(ca_certificate, "authority")
        path = self.home / AUTHORITY / "trusted.pem"
        known = path.read_bytes() if path.exists() else b""
        write_atomic(path, known + found.public_bytes(serialization.Encoding.PEM))

    def expiring(self, *, now: datetime | None = None, within_days: int = WARNING_DAYS) -> list[Expiry]:
        """Certificates of the authority, the listener and the sites that end within ``within_days``, soonest first."""
        limit = (now or datetime.now(UTC)) + timedelta(days=within_days)
        server = _read_certificate(self.home / KEYS / "server.pem")
        ends = [Expiry("the authority", self._certificate.not_valid_after_utc)]
        ends.append(Expiry("the coordinator", server.not_valid_after_utc))
        ends += [
            Expiry(f"site {site}", datetime.fromisoformat(member.not_after))
            for site, member in self.registry.read().items()
            if not member.revoked
        ]
        return sorted((end for end in ends if end.not_after <= limit), key=lambda end: end.not_after)

    def renew_server(self, addresses: Sequence[str]) -> None:
        """Issue the listener's certificate anew, for these names and addresses; sites keep their kits."""
        server_key = _load_private(self.home / KEYS / "server.key")
        certificate = _server_certificate(server_key.public_key(), addresses, self._certificate, self._key())
        write_atomic(self.home / KEYS / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def admitted(self) -> tuple[str, ...]:
        """Sites that are registered and not revoked, sorted."""
        return tuple(site for site, member in self.registry.read().items() if not member.revoked)

    def seal(self, content: bytes) -> bytes:
        """The authority's signature of a start-up kit's manifest (ECDSA, SHA-384); see `common.kit`."""
        return self._key().sign(content, ec.ECDSA(hashes.SHA384()))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        return _load_private(self._key_path)

    def _issue(self, request: bytes, site: str) -> bytes:
        try:
            csr = x509.load_pem_x509_csr(request)
            valid = csr.is_signature_valid
        except (ValueError, InvalidSignature) as error:
            raise StateError(f"signing request of {site} cannot be read") from error
        public = csr.public_key()
        if not valid or not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, NODE_CURVES):
            raise StateError(f"signing request of {site} is not signed by a key of P-256 or P-384")
        names = [str(name.value) for name in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [site]:
            raise StateError(f"signing request is of {names}, expected {site}")
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(public, site, self._certificate, CERTIFICATE_DAYS).add_extension(usage, critical=False)
        ).sign(self._key(), hashes.SHA384())
        self.registry.write(site, _member(certificate))
        return certificate.public_bytes(serialization.Encoding.PEM)


def init_authority(home: Path, *, addresses: Sequence[str]) -> Authority:
    """Make a new authority and the listener's certificate in ``home``.

    Parameters
    ----------
    addresses : sequence of str
        Every name and address (v4 or v6) by which any hospital reaches the coordinator: all go into the certificate.

    Raises
    ------
    StateError
        If an authority exists already, or no address is given.
    """
    if not addresses:
        raise StateError("the coordinator needs at least one name or address for its certificate")
    for folder in (home / AUTHORITY, home / KEYS):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    _write_private(home / AUTHORITY / "ca.key", ca_key)
    ca = _ca_certificate(ca_key)
    write_atomic(home / AUTHORITY / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))
    _write_private(home / KEYS / "server.key", server_key)
    server = _server_certificate(server_key.public_key(), addresses, ca, ca_key)
    write_atomic(home / KEYS / "server.pem", server.public_bytes(serialization.Encoding.PEM))
    SiteRegistry(home / AUTHORITY / "sites.json").create()
    return Authority(home)


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedrad consortium authority")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )


def _server_certificate(
    key: ec.EllipticCurvePublicKey, addresses: Sequence[str], ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    names = x509.SubjectAlternativeName([_general_name(address) for address in dict.fromkeys(addresses)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = _builder(key, "fedrad coordinator", ca, CERTIFICATE_DAYS)
    return (
        builder.add_extension(names, critical=False).add_extension(usage, critical=False).sign(ca_key, hashes.SHA384())
    )


def _builder(key: ec.EllipticCurvePublicKey, name: str, ca: x509.Certificate, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + timedelta(days=days), ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_authority_identifier(ca), critical=False)
    )


def _authority_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address.strip("[]")))
    except ValueError:
        return x509.DNSName(address.encode("idna").decode("ascii"))


def _member(certificate: x509.Certificate) -> Member:
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise StateError("a site's certificate must hold a key of an elliptic curve")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Member(
        public_key=pem.decode("ascii"),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_after=certificate.not_valid_after_utc.isoformat(),
    )


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if not write_secret(path, pem):
        raise StateError(f"{path} exists: a private key is never overwritten")


def _load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"private key {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateError(f"private key {path} is not of an elliptic curve")
    return key


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"certificate {path} cannot be read: {error}") from error


def _pem_certificate(content: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise StateError(f"{what} is not a PEM certificate") from error
