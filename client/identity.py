"""The site's own key and its signing request: made at the hospital, so that the private key never travels.

One key (P-256) is both the Flower node key, which signs every request, and the key of the TLS client certificate. The
coordinator's listener compares the two, so a stolen certificate is worth nothing without the key, and a stolen
signature nothing without the connection.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.errors import StateError
from common.files import write_secret
from common.privacy.signing import NODE_CURVES

KEY_FILE = "node.key"
REQUEST_FILE = "node.csr"


def make_identity(folder: Path, *, site: str, key_file: str = KEY_FILE) -> bytes:
    """Make the site's private key in ``folder`` and return the signing request (PEM) for the coordinator.

    The key is written with mode 0600 and is never overwritten: rotate with another ``key_file``. The request is also
    written beside the key, to be handed to the coordinator by any means; it holds nothing secret.

    Raises
    ------
    StateError
        If the key exists already, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(NODE_CURVES[0]())
    path = folder / key_file
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if not write_secret(path, pem):
        raise StateError(f"{path} exists; a private key is never overwritten; to rotate it, name another file")
    request = _signed_request(key, site)
    (folder / REQUEST_FILE).write_bytes(request)
    return request


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of a PEM file.

    Raises
    ------
    StateError
        If the file is missing, damaged, protected by a pass phrase, or holds another kind of key than P-256 or P-384.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"node key {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, NODE_CURVES):
        raise StateError(f"node key {path} is no key of P-256 or P-384")
    return key


def _signed_request(key: ec.EllipticCurvePrivateKey, site: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA384())
    return request.public_bytes(serialization.Encoding.PEM)
