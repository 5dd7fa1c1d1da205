"""The start-up kit of a hospital: one signed ZIP file with everything that it needs and nothing that is secret.

::

    kit.json               `KitManifest`: site, address, versions, studies with their digests, SHA-256 of every file
    kit.sig                signature of kit.json by the consortium's authority (ECDSA P-384, SHA-384)
    ca.pem                 the authority's certificate
    node.pem               the hospital's certificate; absent where it has one already, or one of its own authority
    site.toml, README.txt  a site file to complete, and what hospital IT does with all this
    studies/<name>.toml    the studies that the hospital is asked to agree to

The signature shows that a kit was not changed since the authority made it. That the authority is the right one shows
only its fingerprint, compared by telephone: a forger can sign a forged kit with an authority of their own.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from common.config.fields import Name
from common.config.loading import Frozen, digest, parse
from common.config.study import StudyConfig
from common.errors import StateError

MANIFEST, SIGNATURE, AUTHORITY, CERTIFICATE = "kit.json", "kit.sig", "ca.pem", "node.pem"
SITE_FILE, README, STUDIES = "site.toml", "README.txt", "studies/"
PURPOSE = b"fedrad start-up kit 1\n"
"""Stands before what is signed, so that the signature can pass for nothing else that the authority signs."""

MAX_FILES, MAX_FILE_BYTES = 64, 1 << 20
FILE_NAME = re.compile(r"^(studies/)?[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.[a-z]{2,4}$")
MADE = (1980, 1, 1, 0, 0, 0)
"""Time stamp of the entries: the same content gives the same file."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sign = Callable[[bytes], bytes]


class KitManifest(Frozen):
    """What a kit says about itself; signed.

    Parameters
    ----------
    address : str
        ``host:port`` under which the hospital reaches the coordinator.
    made : str
        ISO 8601 in UTC.
    versions : dict
        Of fedrad and the libraries that change numbers, at the coordinator (`common.version.versions`).
    studies : dict
        File name -> digest of the study, as the coordinator's fedrad computes it.
    files : dict
        File name -> SHA-256 of its bytes.
    """

    format: Literal[1] = 1
    site: Name
    address: str
    made: str
    versions: dict[str, str]
    studies: dict[str, Sha256]
    files: dict[str, Sha256]


@dataclass(frozen=True)
class Kit:
    """A kit whose signature and content agree."""

    manifest: KitManifest
    manifest_text: bytes
    files: Mapping[str, bytes]

    @property
    def authority(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.files[AUTHORITY])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, to be compared by telephone."""
        return self.authority.fingerprint(hashes.SHA256()).hex(":")

    def studies(self) -> dict[str, StudyConfig]:
        """File name -> study.

        Raises
        ------
        ConfigError
            If this version of fedrad finds faults in a study.
        StateError
            If this version of fedrad reads a study differently from the coordinator's.
        """
        found = {name: parse(self.files[name].decode(), StudyConfig, source=name) for name in self.manifest.studies}
        for name, study in found.items():
            if digest(study) != self.manifest.studies[name]:
                theirs = self.manifest.versions.get("fedrad", "unknown")
                raise StateError(
                    f"{name} has digest {digest(study)[:12]} here and {self.manifest.studies[name][:12]} at the "
                    f"coordinator, whose fedrad is {theirs}: install the same version"
                )
        return found


def pack_kit(manifest: KitManifest, files: Mapping[str, bytes], *, sign: Sign) -> bytes:
    """The ZIP file; ``manifest.files`` is filled in here."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    text = manifest.model_copy(update={"files": sums}).model_dump_json(indent=1).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [(MANIFEST, text), (SIGNATURE, sign(PURPOSE + text)), *sorted(files.items())]:
            archive.writestr(zipfile.ZipInfo(name, MADE), content)
    return packed.getvalue()


def open_kit(content: bytes) -> Kit:
    """Check a kit and hand out what it holds.

    Raises
    ------
    StateError
        If it is no kit, or anything in it was changed, added or taken out since the authority signed it.
    """
    entries = _entries(content)
    missing = sorted({MANIFEST, SIGNATURE, AUTHORITY} - entries.keys())
    if missing:
        raise StateError(f"the kit has no {', '.join(missing)}")
    text, signature = entries.pop(MANIFEST), entries.pop(SIGNATURE)
    _verify(entries[AUTHORITY], PURPOSE + text, signature)
    try:
        manifest = KitManifest.model_validate_json(text)
    except ValidationError as error:
        raise StateError(
            f"the kit is of another version of fedrad: {error.error_count()} faults in {MANIFEST}"
        ) from error
    sums = {name: hashlib.sha256(entry).hexdigest() for name, entry in entries.items()}
    changed = sorted(name for name in sums.keys() | manifest.files.keys() if sums.get(name) != manifest.files.get(name))
    if changed or not manifest.studies.keys() <= entries.keys():
        raise StateError(
            f"the kit was changed after it was signed: {', '.join(changed)}; ask the coordinator for another"
        )
    return Kit(manifest, text, entries)


def _entries(content: bytes) -> dict[str, bytes]:
    """Name -> content; only names that a kit may hold, and not more than it may."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            strange = [name for name in names if name != SIGNATURE and not FILE_NAME.fullmatch(name)]
            if strange or len(names) > MAX_FILES or len(set(names)) != len(names):
                raise StateError("the kit holds files that no kit holds")
            entries = {}
            for name in names:
                with archive.open(name) as stream:
                    entries[name] = stream.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise StateError(f"the kit cannot be read: {error}") from error
    if any(len(entry) > MAX_FILE_BYTES for entry in entries.values()):
        raise StateError(f"the kit holds a file of more than {MAX_FILE_BYTES >> 20} MiB")
    return entries


def _verify(authority: bytes, content: bytes, signature: bytes) -> None:
    try:
        key = x509.load_pem_x509_certificate(authority).public_key()
    except ValueError as error:
        raise StateError(f"{AUTHORITY} in the kit is not a certificate") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StateError(f"{AUTHORITY} in the kit is not of an elliptic curve")
    try:
        key.verify(signature, content, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise StateError("the kit is not signed by its authority; ask the coordinator for another") from error
