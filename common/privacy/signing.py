"""Whose key is it: a site signs with the key of its certificate, and another site checks the whole chain.

The coordinator relays what sites say to one another. It must not be able to speak for one, so each site checks, with
the authorities of its own ``site.toml`` and its own clock, that a certificate was issued by one of them, for the name
in question, for a key of P-256 or P-384, for a client, and that it is valid today. Where the coordinator also runs the
authority it could issue a certificate of its own for a site's name: `Authorities.pins` closes this, fingerprints that
the hospitals told one another by telephone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import PrivacyError

ALGORITHM = ec.ECDSA(hashes.SHA384())

NODE_CURVES = (ec.SECP256R1, ec.SECP384R1)
"""Of a hospital's key: new ones are of the first, which signs and is checked in a fifth of the time."""


@dataclass(frozen=True)
class Signer:
    """A site's own key and certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def sign(self, content: bytes) -> bytes:
        return self.key.sign(content, ALGORITHM)


class Authorities:
    """Who may vouch for a site's key.

    Parameters
    ----------
    certificates : tuple of x509.Certificate
        The consortium's authority, and those of hospitals with an authority of their own.
    pins : mapping of site to str
        SHA-256 of a site's public key, hexadecimal (`fingerprint`); a pinned site's certificate must hold that key.
    now : datetime, optional
        For tests; the clock of this machine where it is not given.
    """

    def __init__(
        self,
        certificates: tuple[x509.Certificate, ...],
        *,
        pins: Mapping[str, str] | None = None,
        now: datetime | None = None,
    ) -> None:
        self._certificates = certificates
        self._pins = {site: pin.replace(":", "").lower() for site, pin in (pins or {}).items()}
        self._now = now
        self._checked: dict[tuple[str, bytes], tuple[x509.Certificate, ec.EllipticCurvePublicKey]] = {}

    def public_key(self, der: bytes, *, site: str) -> ec.EllipticCurvePublicKey:
        """The key that a certificate (DER) vouches for.

        Raises
        ------
        PrivacyError
            Naming the site and what is wrong with its certificate.
        """
        if (site, der) not in self._checked:
            certificate = certificate_of(der, site=site)
            self._require_chain(certificate, site)
            key = certified_key(certificate, site=site)
            if site in self._pins and self._pins[site] != fingerprint(key):
                raise PrivacyError(
                    f"the certificate of {site} holds another key than the one that this hospital pinned: telephone "
                    f"{site} before you change peers in site.toml"
                )
            self._checked[site, der] = certificate, key
        certificate, key = self._checked[site, der]
        self._require_valid_today(certificate, site)
        return key

    def _require_chain(self, certificate: x509.Certificate, site: str) -> None:
        for authority in self._certificates:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            self._require_valid_today(authority, f"the authority of {site}")
            return
        raise PrivacyError(f"the certificate of {site} was issued by no authority that this hospital knows")

    def _require_valid_today(self, certificate: x509.Certificate, whose: str) -> None:
        now = self._now or datetime.now(UTC)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins <= now <= ends:
            raise PrivacyError(
                f"the certificate of {whose} is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, this machine's clock "
                f"says {now:%Y-%m-%d %H:%M} UTC"
            )


def certificate_of(der: bytes, *, site: str) -> x509.Certificate:
    """The certificate in ``der``; PrivacyError where it is none."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise PrivacyError(f"what {site} sent as its certificate is none") from error


def certified_key(certificate: x509.Certificate, *, site: str) -> ec.EllipticCurvePublicKey:
    """The key of a client certificate with the site's name.

    Raises
    ------
    PrivacyError
        If it has another name or kind of key, or is no certificate of a client.
    """
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [site]:
        raise PrivacyError(f"the certificate that came for {site} is of {', '.join(names) or 'nobody'}")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise PrivacyError(f"the certificate of {site} is not one of a hospital")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, NODE_CURVES):
        raise PrivacyError(f"the certificate of {site} holds no key of P-256 or P-384")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key (DER), hexadecimal: what hospitals compare by telephone."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def is_signed(key: ec.EllipticCurvePublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content, ALGORITHM)
    except InvalidSignature:
        return False
    return True
