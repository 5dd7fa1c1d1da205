"""`fedrad site preflight`: everything that must hold at a hospital before it can take part, checked in one go.

The checks of this machine are here, those of the way to the coordinator in `client.preflight_network`. Nothing is
written but one temporary file in the state folder, and no case is read.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from client.approvals import Approvals
from client.audit_chain import Head
from client.audit_check import LogCheck, check_log
from client.audit_log import AuditFiles
from client.connection import NodeConnection
from client.identity import load_key
from client.joining import differing_versions
from client.kill_switch import require_running
from client.preflight_finding import Finding, attention, failed, ok, skipped
from client.preflight_network import check_network
from client.site_key import SiteKey
from common.config.loading import digest
from common.config.pacs import PacsConfig
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import GateError, StateError
from common.kit import MANIFEST, KitManifest
from common.version import VERSION

MIN_FREE_BYTES = 5 << 30
"""For the cache of prepared cases, which holds each case about once."""

WARNING_DAYS = 60


def check_site(config: SiteConfig, studies: Sequence[StudyConfig]) -> list[Finding]:
    """All findings, in the order of the screen: this machine first, then the network.

    Parameters
    ----------
    config : SiteConfig
        With paths that need no folder to be read from (`SiteConfig.relative_to`).
    """
    findings = [
        check_studies(config.site, studies),
        check_manifest(config.manifest),
        check_data(config.data),
        check_state(config.state),
        check_device(config.device),
        check_archive(config.pacs),
    ]
    if config.coordinator is None:
        return [
            *findings,
            failed("coordinator", "missing in site.toml", "add [coordinator], as in the kit's site.toml"),
        ]
    connection = NodeConnection.of(config.coordinator)
    return [
        *findings,
        check_approvals(config, studies),
        check_versions(config.coordinator.ca.parent / MANIFEST),
        check_key(connection.node_key),
        check_certificate(connection, config.site),
        *check_network(connection),
    ]


def check_studies(site: str, studies: Sequence[StudyConfig]) -> Finding:
    """Does every study that the hospital agreed to name it?"""
    check = "studies"
    without = [study.name for study in studies if site not in {entry.name for entry in study.sites}]
    if without:
        return failed(check, f"{', '.join(without)}: {site} is not among its sites", "correct site in site.toml")
    return ok(check, "; ".join(f"{study.name} (SHA-256 {digest(study)[:16]}...)" for study in studies))


def check_approvals(config: SiteConfig, studies: Sequence[StudyConfig]) -> Finding:
    """Did this hospital approve its studies, is its audit log whole, and has it not stopped?"""
    check = "approvals"
    try:
        require_running(config.state)
        key = SiteKey.of(config)
        approvals = Approvals(config.site, key)
        files = AuditFiles.of(config.state, config.gate.head)
        found = check_log(files, key) if files.log.exists() or files.head.exists() else LogCheck((), (), Head())
    except GateError as error:
        return failed(check, str(error), "fedrad site resume, once the reason is gone")
    except StateError as error:
        return failed(check, str(error), "make the hospital's key and log readable; fedrad site audit says more")
    if not found.is_whole:
        return failed(check, "the audit log was changed or rolled back", "fedrad site audit says where; keep the files")
    for entry in found.entries:
        approvals.take(entry)
    missing = []
    for study in studies:
        try:
            approvals.require(digest(study))
        except GateError:
            missing.append(study.name)
    if missing:
        return failed(check, f"{', '.join(missing)}: not approved here", "read and sign: fedrad site approve STUDY")
    return ok(check, f"{len(studies)} signed; audit log of {len(found.entries)} entries, whole")


def check_manifest(path: Path) -> Finding:
    """Can the list of cases be read?"""
    check = "manifest"
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return failed(check, f"{path}: {error.strerror}", "correct manifest in site.toml, or let this user read it")
    return ok(check, f"{path} can be read")


def check_archive(pacs: PacsConfig | None) -> Finding:
    """Does the archive answer, where site.toml names one?"""
    if pacs is None:
        return skipped("PACS", "no [pacs] in site.toml: images are read from the data folder")
    from client.preflight_pacs import check_pacs  # DICOM's library is loaded only where there is an archive

    return check_pacs(pacs)


def check_data(folder: Path) -> Finding:
    """Can the images be listed? Write permission is not needed."""
    check = "data folder"
    try:
        with os.scandir(folder) as entries:
            next(entries, None)
    except OSError as error:
        return failed(
            check, f"{folder}: {error.strerror}", "correct data in site.toml, or let this user read the folder"
        )
    also = "; also writable, which fedrad does not need" if os.access(folder, os.W_OK) else ", and not written"
    return ok(check, f"{folder} can be read{also}")


def check_state(folder: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> Finding:
    """Can the state folder be written, and is there room?"""
    check = "state folder"
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"fedrad")
            file.flush()
        free = shutil.disk_usage(existing).free
    except OSError as error:
        advice = f"let this user write {existing}, or name another folder as state in site.toml"
        return failed(check, f"{existing} cannot be written: {error.strerror}", advice)
    detail = f"{folder} can be {'written' if existing == folder else 'made'}, {free / 2**30:.1f} GiB free"
    if free < min_free_bytes:
        return failed(check, detail, f"make room: at least {min_free_bytes / 2**30:.0f} GiB")
    return ok(check, detail)


def check_device(device: str) -> Finding:
    """Is the GPU there that site.toml asks for?"""
    check = "GPU"
    if device == "cpu":
        return skipped(check, 'none asked for (device = "cpu")')
    import torch

    index = int(device.partition(":")[2] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        detail = f"{device} asked for, {count} found by torch {torch.__version__}"
        return failed(
            check, detail, 'check the driver (nvidia-smi) and that torch is a CUDA build, or set device = "cpu"'
        )
    found = torch.cuda.get_device_properties(index)
    return ok(check, f"{found.name}, {found.total_memory / 2**30:.0f} GiB")


def check_versions(manifest: Path) -> Finding:
    """Are the libraries that change numbers the coordinator's? Compared with the kit, where there is one."""
    check = "versions"
    if not manifest.exists():
        return skipped(check, f"fedrad {VERSION}; no {manifest.name} beside ca: compared when a study starts")
    try:
        kit = KitManifest.model_validate_json(manifest.read_bytes())
    except (OSError, ValidationError):
        return failed(check, f"{manifest} cannot be read", "join with the kit again")
    differing = differing_versions(kit.versions)
    if differing:
        return failed(check, "; ".join(differing), "install the coordinator's versions: a study refuses others")
    return ok(
        check, f"fedrad {VERSION} and {len(kit.versions) - 1} libraries, as at the coordinator on {kit.made[:10]}"
    )


def check_key(path: Path) -> Finding:
    """Is the private key usable, and nobody else's to read?"""
    check = "private key"
    try:
        load_key(path)
        mode = stat.S_IMODE(path.stat().st_mode)
    except (StateError, OSError) as error:
        return failed(check, str(error), "check node_key in site.toml; a lost key is replaced by rotation")
    if mode & 0o077:
        return failed(check, f"{path} has mode {mode:o}: others can read it", f"chmod 600 {path}, and rotate the key")
    return ok(check, f"{path} is private to its owner")


def check_certificate(connection: NodeConnection, site: str) -> Finding:
    """Is the certificate for this key and this site, and how long does it last?"""
    check = "certificate"
    try:
        certificate = x509.load_pem_x509_certificate(connection.certificate.read_bytes())
        key = load_key(connection.node_key)
    except (StateError, OSError, ValueError) as error:
        return failed(
            check, f"{connection.certificate}: {error}", "check certificate and node_key, or join with the kit"
        )
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if certificate.public_key() != key.public_key():
        return failed(
            check, f"{connection.certificate} is not for {connection.node_key}", "name the pair that belongs together"
        )
    now = datetime.now(UTC)
    ends = certificate.not_valid_after_utc
    detail = f"for {', '.join(names)}, valid until {ends:%Y-%m-%d}"
    if not certificate.not_valid_before_utc <= now <= ends:
        advice = (
            "ask the coordinator to rotate it: fedrad site init --key-file node-2.key; check this machine's clock too"
        )
        return failed(check, f"{detail}; the clock says {now:%Y-%m-%d %H:%M} UTC", advice)
    if (ends - now).days < WARNING_DAYS:
        return attention(
            check, f"{detail}: {(ends - now).days} days", "rotate it: fedrad site init --key-file node-2.key"
        )
    if site not in names:
        return attention(check, detail, f"site.toml says {site}: right only for a certificate of your own authority")
    return ok(check, detail)
