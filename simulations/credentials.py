"""Keys and certificates for hospitals that are objects in one process: real ones, of an authority of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509

from client.credentials import Credentials
from client.identity import KEY_FILE, load_key, make_identity
from common.privacy.signing import Authorities, Signer
from server.provisioning import init_authority


def issue_credentials(sites: Sequence[str]) -> dict[str, Credentials]:
    """Credentials of each site; the authority's key is gone when this returns."""
    with TemporaryDirectory(prefix="fedrad-authority-") as folder:
        authority = init_authority(Path(folder), addresses=["localhost"])
        known = Authorities((x509.load_pem_x509_certificate(authority.ca_certificate),))
        issued = {}
        for site in sites:
            home = Path(folder) / "sites" / site
            certificate = authority.sign(make_identity(home, site=site), site=site)
            signer = Signer(load_key(home / KEY_FILE), x509.load_pem_x509_certificate(certificate))
            issued[site] = Credentials(signer, known)
        return issued
