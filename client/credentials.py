"""The key that this hospital signs with, and the authorities that it believes about other hospitals' keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from client.identity import load_key
from common.config.site import SiteConfig
from common.errors import StateError
from common.privacy.signing import Authorities, Signer


@dataclass(frozen=True)
class Credentials:
    """What a site needs to take part in masked sums."""

    signer: Signer
    authorities: Authorities


def load_credentials(config: SiteConfig) -> Credentials:
    """Key and certificate of ``[coordinator]`` in ``site.toml``: the same that open the connection.

    Raises
    ------
    StateError
        If the site file names none, or a file cannot be read.
    """
    if config.coordinator is None:
        raise StateError("masked sums need the key and certificate that [coordinator] of site.toml names")
    signer = Signer(load_key(config.coordinator.node_key), read_certificate(config.coordinator.certificate))
    known = (config.coordinator.ca, *config.secure_aggregation.authorities)
    authorities = Authorities(tuple(map(read_certificate, known)), pins=config.secure_aggregation.peers)
    return Credentials(signer, authorities)


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate of a PEM file; StateError where it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"certificate {path} cannot be read: {error}") from error
