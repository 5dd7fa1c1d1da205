"""Joining a consortium: a start-up kit is checked, explained in plain words, and put into the hospital's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from client.identity import load_key
from common.config.study import StudyConfig
from common.errors import StateError
from common.files import write_atomic
from common.kit import AUTHORITY, CERTIFICATE, MANIFEST, README, SITE_FILE, Kit, open_kit
from common.version import versions

MAX_KIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Joined:
    """What `join` wrote, and files of the hospital that it left as they were."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def read_kit(path: Path) -> Kit:
    """The kit of a file, with its signature checked.

    Raises
    ------
    StateError
        If it cannot be read, is no kit, or was changed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KIT_BYTES + 1)
    except OSError as error:
        raise StateError(f"kit {path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_KIT_BYTES:
        raise StateError(f"kit {path} is larger than a kit can be")
    return open_kit(content)


def require_fingerprint(kit: Kit, told: str) -> None:
    """Raise `StateError` where the authority is not the one whose fingerprint was ``told`` by telephone."""
    if told.replace(":", "").replace(" ", "").lower() != kit.fingerprint.replace(":", ""):
        raise StateError(
            f"the kit is of an authority with fingerprint {kit.fingerprint}, not of the one that was told: do not "
            "use it, and tell the coordinator"
        )


def explain(kit: Kit) -> list[str]:
    """What the hospital is about to agree to, one sentence each.

    Raises
    ------
    ConfigError, StateError
        If this version of fedrad cannot read a study, or reads it differently.
    """
    manifest = kit.manifest
    lines = [f"a kit for {manifest.site}, made {manifest.made}; the coordinator is reached at {manifest.address}"]
    if CERTIFICATE in kit.files:
        lines.append(f"its certificate is valid until {_certificate(kit).not_valid_after_utc:%Y-%m-%d}")
    for name, study in kit.studies().items():
        lines.append(_study_sentence(name, study, kit.manifest.studies[name]))
    return lines + differing_versions(manifest.versions)


def differing_versions(theirs: dict[str, str]) -> list[str]:
    """A sentence for each library whose version is not the coordinator's: a study refuses to start with it."""
    own = versions()
    return [
        f"{name} is {own.get(name, 'absent')} here and {theirs.get(name, 'absent')} at the coordinator"
        for name in sorted(own.keys() | theirs.keys())
        if own.get(name) != theirs.get(name)
    ]


def join(kit: Kit, *, keys: Path, folder: Path) -> Joined:
    """Write the kit's files: certificates beside the key, the rest into ``folder``.

    A site file or README that exists is left alone. A study file that exists with another content is not replaced
    silently: that would change what the hospital agreed to.

    Parameters
    ----------
    keys : Path
        Folder with the key that `client.identity.make_identity` made.
    folder : Path
        The hospital's folder; ``site.toml`` and ``studies/`` go there.

    Raises
    ------
    StateError
        If no key in ``keys`` belongs to the certificate, another authority is in use, or a study file would change.
        Nothing is written then.
    """
    content: dict[Path, bytes] = {keys / MANIFEST: kit.manifest_text, keys / AUTHORITY: kit.files[AUTHORITY]}
    _require_same_authority(keys / AUTHORITY, kit)
    if CERTIFICATE in kit.files:
        _require_issued_by_authority(kit)
        content[_key_of(_certificate(kit), keys).with_suffix(".pem")] = kit.files[CERTIFICATE]
    elif not sorted(keys.glob("*.key")):
        raise StateError(f"{keys} holds no key; make one with `fedrad site init {keys} --site {kit.manifest.site}`")
    own = {folder / name: kit.files[name] for name in (SITE_FILE, README) if name in kit.files}
    studies = {folder / name: kit.files[name] for name in kit.manifest.studies}
    other = [str(path) for path, text in studies.items() if path.exists() and path.read_bytes() != text]
    if other:
        raise StateError(
            f"{', '.join(other)}: the kit's study differs from the one that is there; move it away to take the new one"
        )
    kept = tuple(path for path in own if path.exists())
    content |= studies | {path: text for path, text in own.items() if path not in kept}
    for path, text in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    return Joined(tuple(content), kept)


def _study_sentence(name: str, study: StudyConfig, study_digest: str) -> str:
    sites = ", ".join(site.name for site in study.sites)
    models = ", ".join(model.name for model in study.models)
    fewest = study.privacy.minimum_cases
    return (
        f"study {name}: {study.title.rstrip('.')}. Hospitals: {sites}. Models: {models}. "
        f"Nothing is computed from fewer than {fewest} cases. SHA-256 {study_digest}"
    )


def _certificate(kit: Kit) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(kit.files[CERTIFICATE])
    except ValueError as error:
        raise StateError(f"{CERTIFICATE} in the kit is not a certificate") from error


def _require_issued_by_authority(kit: Kit) -> None:
    certificate = _certificate(kit)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [kit.manifest.site]:
        raise StateError(f"the kit is for {kit.manifest.site}, its certificate for {', '.join(names)}")
    try:
        certificate.verify_directly_issued_by(kit.authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise StateError("the kit's certificate is not of its authority") from error
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise StateError(f"the kit's certificate ended {certificate.not_valid_after_utc:%Y-%m-%d}; ask for another kit")


def _require_same_authority(path: Path, kit: Kit) -> None:
    """A second kit comes from the same authority as the first."""
    if not path.exists():
        return
    try:
        used = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    if used != kit.authority:
        raise StateError(
            f"{path} is of an authority with fingerprint {used.fingerprint(hashes.SHA256()).hex(':')}, the kit of "
            f"{kit.fingerprint}; remove {path} only if the coordinator confirms the new one by telephone"
        )


def _key_of(certificate: x509.Certificate, keys: Path) -> Path:
    """The file with the private key of a certificate."""
    candidates: Sequence[Path] = sorted(keys.glob("*.key"))
    for path in candidates:
        if load_key(path).public_key() == certificate.public_key():
            return path
    held = ", ".join(path.name for path in candidates) or "no key"
    raise StateError(f"the kit's certificate is for another key than those in {keys} ({held})")
