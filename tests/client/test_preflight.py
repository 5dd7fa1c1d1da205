"""Preflight of this machine: folders, keys, versions and approvals; every fault stands on one screen."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from client.identity import make_identity
from client.preflight import (
    check_approvals,
    check_certificate,
    check_data,
    check_device,
    check_key,
    check_manifest,
    check_site,
    check_state,
    check_studies,
    check_versions,
)
from client.preflight_network import PORT
from common.config.loading import load
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.kit import MANIFEST
from server import provisioning
from server.kits import make_kit
from server.provisioning import init_authority
from tests.commands import fedrad
from tests.deployment import SITE_FILE, connection, consortium, join
from tests.small_study import write_study


def test_state_folder(tmp_path: Path) -> None:
    assert check_state(tmp_path, min_free_bytes=1).state == "ok"
    assert "can be made" in check_state(tmp_path / "a" / "b", min_free_bytes=1).detail
    assert list(tmp_path.iterdir()) == []
    full = check_state(tmp_path, min_free_bytes=1 << 60)
    assert (full.state, "make room" in full.advice) == ("failed", True)
    file = tmp_path / "file"
    file.touch()
    assert check_state(file).state == "failed"


def test_manifest_and_data(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case_id\n")
    assert check_manifest(tmp_path / "cases.csv").state == "ok"
    assert check_manifest(tmp_path / "absent.csv").state == "failed"
    assert check_data(tmp_path).state == "ok"
    assert check_data(tmp_path / "absent").state == "failed"
    assert check_data(tmp_path / "cases.csv").state == "failed"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read and write everything")
def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    assert check_data(closed).state == "failed"
    assert check_state(closed).state == "failed"


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    make_identity(tmp_path, site="east")
    assert check_key(tmp_path / "node.key").state == "ok"
    (tmp_path / "node.key").chmod(0o644)
    found = check_key(tmp_path / "node.key")
    assert (found.state, "mode 644" in found.detail) == ("failed", True)
    assert check_key(tmp_path / "absent.key").state == "failed"


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = consortium(tmp_path, sites=("east", "north"))
    east = connection(tmp_path, "east", 1)
    assert check_certificate(east, "east").state == "ok"
    assert check_certificate(east, "west").state == "attention"
    mixed = replace(east, certificate=tmp_path / "north" / "node.pem")
    assert "is not for" in check_certificate(mixed, "east").detail
    monkeypatch.setattr(provisioning, "CERTIFICATE_DAYS", 30)
    join(authority, tmp_path, "southern")
    soon = check_certificate(connection(tmp_path, "southern", 1), "southern")
    assert (soon.state, "29 days" in soon.detail) == ("attention", True)


def test_a_gpu_is_looked_for_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert check_device("cpu").state == "skipped"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = check_device("cuda:1")
    assert (found.state, "cuda:1 asked for, 0 found" in found.detail) == ("failed", True)


def test_versions_are_compared_with_the_kit(tmp_path: Path) -> None:
    authority = init_authority(tmp_path / "home", addresses=["127.0.0.1"])
    study, _ = write_study(tmp_path)
    request = make_identity(tmp_path / "keys", site="east")
    from common.kit import open_kit

    kit = open_kit(make_kit(authority, "east", address="127.0.0.1:443", studies=[study], request=request))
    path = tmp_path / MANIFEST
    assert check_versions(path).state == "skipped"
    path.write_bytes(kit.manifest_text)
    assert check_versions(path).state == "ok"
    path.write_bytes(kit.manifest_text.replace(b'"torch": "', b'"torch": "9.'))
    found = check_versions(path)
    assert (found.state, found.detail.startswith("torch is ")) == ("failed", True)
    path.write_bytes(b"{}")
    assert check_versions(path).state == "failed"


def test_a_study_that_does_not_name_the_site(tmp_path: Path) -> None:
    _, study = write_study(tmp_path)
    assert check_studies("east", [study]).state == "ok"
    assert "small: west is not among its sites" in check_studies("west", [study]).detail


def test_approvals(tmp_path: Path) -> None:
    _, study = write_study(tmp_path)
    consortium(tmp_path, sites=("east",))
    (tmp_path / "site.toml").write_text(SITE_FILE.format(port=1))
    config = load(tmp_path / "site.toml", SiteConfig).relative_to(tmp_path)
    assert check_approvals(config, [study]).advice == "read and sign: fedrad site approve STUDY"
    assert not config.state.exists()
    assert fedrad("site", "approve", tmp_path / "small.toml", "--site", tmp_path / "site.toml", "--yes").exit_code == 0
    assert check_approvals(config, [study]).detail == "1 signed; audit log of 2 entries, whole"
    (config.state / "STOPPED").touch()
    assert check_approvals(config, [study]).advice == "fedrad site resume, once the reason is gone"
    (config.state / "STOPPED").unlink()
    (config.state / "audit.jsonl").write_text("")
    assert "changed or rolled back" in check_approvals(config, [study]).detail
    (config.state / "audit.key").unlink()
    assert check_approvals(config, [study]).state == "failed"


def test_every_fault_is_on_the_screen_at_once(tmp_path: Path) -> None:
    write_study(tmp_path)
    consortium(tmp_path, sites=("east",))
    (tmp_path / "site.toml").write_text(SITE_FILE.format(port=1))
    config = load(tmp_path / "site.toml", SiteConfig).relative_to(tmp_path)
    found = check_site(config, [load(path, StudyConfig) for path in config.studies])
    assert {finding.check for finding in found if finding.state == "failed"} >= {"manifest", "data folder", PORT}
    assert "coordinator" in [
        finding.check for finding in check_site(config.model_copy(update={"coordinator": None}), [])
    ]
