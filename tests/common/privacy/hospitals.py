"""Hospitals with real keys and certificates, and one masked sum from beginning to end, for the tests of masking."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import numpy.typing as npt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.masking_messages import Bytes
from common.privacy.mask_keys import MaskWords, Terms
from common.privacy.masking import MaskingSite
from common.privacy.signing import Authorities, Signer
from common.privacy.unmasking import MaskingServer

PHASES = ("keys", "shares", "words", "signatures", "unmasking")


@dataclass(frozen=True)
class Issuer:
    """An authority that lives in memory."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str = "test authority") -> Issuer:
        key = ec.generate_private_key(ec.SECP384R1())
        return cls(key, _certificate(key.public_key(), name, name, key))

    def signer(
        self,
        site: str,
        *,
        days: int = 30,
        began: timedelta = timedelta(days=-1),
        curve: ec.EllipticCurve | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Signer:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        certificate = _certificate(key.public_key(), site, "test authority", self.key, days, began, usage)
        return Signer(key, certificate)


def _certificate(
    public: ec.EllipticCurvePublicKey,
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    days: int = 30,
    began: timedelta = timedelta(days=-1),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + began)
        .not_valid_after(now + began + timedelta(days=days))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA384())
    )


@cache
def issuer() -> Issuer:
    return Issuer.new()


@cache
def signer_of(site: str) -> Signer:
    return issuer().signer(site)


@cache
def authorities() -> Authorities:
    return Authorities((issuer().certificate,))


def names(n: int) -> tuple[str, ...]:
    return tuple(f"site-{i:03d}" for i in range(n))


def terms(n: int, threshold: int, *, session: str | None = None, asked: str = "the question") -> Terms:
    return Terms("study", session or secrets.token_hex(16), asked, names(n), threshold)


def site_of(agreed: Terms, name: str) -> MaskingSite:
    return MaskingSite(agreed, site=name, signer=signer_of(name), authorities=authorities())


def random_words(seed: int, *, wide: int = 3, narrow: int = 5) -> MaskWords:
    rng = np.random.default_rng(seed)
    return MaskWords(rng.integers(0, 2**64, wide, dtype=np.uint64), rng.integers(0, 2**32, narrow, dtype=np.uint32))


@dataclass
class Session:
    """One masked sum, a phase a method; ``gone`` are the sites that drop out before each phase."""

    terms: Terms
    words: Mapping[str, MaskWords]
    gone: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sites = {name: site_of(self.terms, name) for name in self.terms.cohort}
        self.server = MaskingServer(self.terms)
        self.masked: dict[str, MaskWords] = {}

    def alive(self, phase: str) -> list[str]:
        lost = {name for known in PHASES[: PHASES.index(phase) + 1] for name in self.gone.get(known, ())}
        return [name for name in self.sites if name not in lost]

    def keys(self) -> Session:
        self.roster = self.server.open({name: self.sites[name].advertise() for name in self.alive("keys")})
        return self

    def shares(self) -> Session:
        self.shared = {name: self.sites[name].share(self.roster) for name in self.alive("shares")}
        self.sharers = self.server.route(self.shared)
        return self

    def add(self) -> Session:
        for name in self.alive("words"):
            self.masked[name] = self.sites[name].mask(self.words[name], self.sharers)
            self.server.add(name, self.masked[name])
        return self

    def sign(self) -> Session:
        included = self.server.included
        alive = [name for name in included if name in self.alive("signatures")]
        self.signatures = {name: self.signed(name, included) for name in alive}
        return self

    def signed(self, name: str, included: Sequence[str]) -> Bytes:
        return self.sites[name].sign(included, self.server.sealed_for(name)).signature

    def unmask(self) -> Session:
        for name in self.signatures:
            if name in self.alive("unmasking"):
                self.server.collect(name, self.sites[name].unmask(self.signatures))
        return self

    def run(self) -> MaskWords:
        return self.keys().shares().add().sign().unmask().server.total()


def plain_sum(words: Mapping[str, MaskWords], included: Sequence[str]) -> tuple[npt.NDArray[np.uint64], ...]:
    wide = np.sum([words[name].wide for name in included], axis=0, dtype=np.uint64)
    narrow = np.sum([words[name].narrow for name in included], axis=0, dtype=np.uint32)
    return wide, narrow
