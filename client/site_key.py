"""The key with which a hospital signs what it decides: its node key or, before it joined a consortium, one of its own.

Approvals of studies are signed with it, and it vouches for the key of the audit log (`client.audit_log`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.identity import load_key
from common.config.site import SiteConfig
from common.files import write_secret

OWN_KEY = "site.key"
"""In the state folder, of a hospital without a coordinator."""


@dataclass(frozen=True)
class SiteKey:
    """A P-384 key; signatures are ECDSA with SHA-384 over a purpose and the content."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, config: SiteConfig) -> SiteKey:
        """The node key where the hospital has joined, else a key in its state folder, made where there is none.

        Raises
        ------
        StateError
            If the key cannot be read or written.
        """
        if config.coordinator is not None:
            return cls(load_key(config.coordinator.node_key))
        path = config.state / OWN_KEY
        if not path.exists():
            _make(path)
        return cls(load_key(path))

    @property
    def public(self) -> str:
        """DER of the public key, hexadecimal."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.DER, form).hex()

    def sign(self, purpose: str, content: bytes) -> str:
        """Signature, hexadecimal; ``purpose`` keeps it from passing for anything else that this key signs."""
        return self.private.sign(_bound(purpose, content), ec.ECDSA(hashes.SHA384())).hex()

    def holds(self, purpose: str, content: bytes, signature: str) -> bool:
        """Whether this key made the signature."""
        try:
            self.private.public_key().verify(
                bytes.fromhex(signature), _bound(purpose, content), ec.ECDSA(hashes.SHA384())
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def fingerprint(public: str) -> str:
    """A public key as people compare it: the first 16 digits of its SHA-256."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def _bound(purpose: str, content: bytes) -> bytes:
    return f"fedrad {purpose} 1\n".encode() + content


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(path, pem)
