"""The archive's sign of life, asked of a real Orthanc, plain and over mutual TLS; every refusal says what to do.

Skipped where no Orthanc is on the PATH (``make orthanc`` installs Debian's).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from client.preflight import check_archive
from client.preflight_pacs import check_pacs
from common.config.pacs import PacsConfig, PacsTlsConfig
from simulations.consortium import free_port
from tests.deployment import consortium

ORTHANC = shutil.which("Orthanc") or ""
with_orthanc = pytest.mark.skipif(not ORTHANC, reason="no Orthanc on the PATH: make orthanc")


@contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[int]:
    """A running archive that knows one peer, FEDRAD; its DICOM port."""
    folder.mkdir()
    port = free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomAet": "ARCHIVE",
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomModalities": {"fedrad": ["FEDRAD", "127.0.0.1", 104]},
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (
        (folder / "output.log").open("wb") as output,
        subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=output, stderr=output) as process,
    ):
        try:
            end = monotonic() + 30
            while b"DICOM server listening" not in (folder / "output.log").read_bytes():
                running = process.poll() is None and monotonic() < end
                assert running, (folder / "output.log").read_text()
                sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def archive(port: int, **changes: Any) -> PacsConfig:
    return PacsConfig(**{"host": "127.0.0.1", "port": port, "ae_title": "ARCHIVE", **changes})


@with_orthanc
def test_a_real_archive_answers_and_names_what_it_refuses(tmp_path: Path) -> None:
    with orthanc(tmp_path / "archive") as port:
        found = check_archive(archive(port))
        assert (found.state, found.advice) == ("ok", "")
        assert "ARCHIVE at 127.0.0.1" in found.detail
        unknown = check_pacs(archive(port, calling_ae_title="NOBODY"))
        assert unknown.state == "failed"
        assert "have NOBODY and this machine entered" in unknown.advice
        other = check_pacs(archive(port, ae_title="OTHER"))
        assert (other.state, "called" in other.detail) == ("failed", True)


@with_orthanc
def test_a_real_archive_over_mutual_tls(tmp_path: Path) -> None:
    consortium(tmp_path, sites=("east",))  # its authority serves as the hospital's
    keys, ca = tmp_path / "keys", tmp_path / "east" / "ca.pem"
    encrypted = {
        "DicomTlsEnabled": True,
        "DicomTlsPrivateKey": str(keys / "server.key"),
        "DicomTlsCertificate": str(keys / "server.pem"),
        "DicomTlsTrustedCertificates": str(ca),
        "DicomTlsRemoteCertificateRequired": True,
    }
    own = PacsTlsConfig(ca=ca, certificate=tmp_path / "east" / "node.pem", key=tmp_path / "east" / "node.key")
    with orthanc(tmp_path / "archive", **encrypted) as port:
        found = check_pacs(archive(port, tls=own))
        assert (found.state, "over TLS" in found.detail) == ("ok", True), found
        foreign = PacsTlsConfig(ca=tmp_path / "foreign" / "authority" / "ca.pem")
        consortium(tmp_path / "foreign", sites=())
        for wrong, because in (
            (None, "ends the conversation"),
            (PacsTlsConfig(ca=ca), "ends the conversation"),
            (foreign, "self-signed certificate in certificate chain"),
        ):
            refused = check_pacs(archive(port, tls=wrong), timeout_s=5)
            assert (refused.state, because in refused.detail) == ("failed", True), refused
            assert "[pacs.tls]" in refused.advice


def test_nobody_listens() -> None:
    found = check_pacs(archive(free_port()))
    assert (found.state, "refused" in found.detail, "firewall" in found.advice) == ("failed", True, True)


def test_something_else_listens() -> None:
    """A port that takes connections and never says a word is given up after the time set."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = check_pacs(archive(silent.getsockname()[1]), timeout_s=0.5)
    assert (found.state, "ends the conversation" in found.detail) == ("failed", True)


def test_files_of_tls_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for name in ("ca.pem", "absent.pem"):
        found = check_pacs(archive(104, tls=PacsTlsConfig(ca=tmp_path / name)))
        assert (found.state, found.detail.startswith("[pacs.tls]: ")) == ("failed", True)


def test_without_an_archive_there_is_nothing_to_check() -> None:
    assert check_archive(None).state == "skipped"


def test_titles_are_dicoms() -> None:
    for title in ("", "A" * 17, "A\\B", " A"):
        with pytest.raises(ValueError, match="ae_title"):
            archive(104, ae_title=title)
    assert archive(104, ae_title="CT [1] ward").ae_title == "CT [1] ward"


def test_key_and_certificate_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        PacsTlsConfig(ca=tmp_path, key=tmp_path)
