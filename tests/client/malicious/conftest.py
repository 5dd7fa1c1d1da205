"""The cases of these tests, and a hospital that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.identity import make_identity
from common.config.site import CoordinatorConfig, SiteConfig
from tests.client.cases import row, write_case, write_manifest
from tests.client.malicious.hospital import N_CASES, Hospital


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases, and the cache of their features, which every hospital of this file is given a link to."""
    home = tmp_path_factory.mktemp("cases")
    for i in range(N_CASES):
        write_case(home / "images", f"P{i:02d}")
    rows = [row(f"P{i:02d}", malignant=str(i % 2), age=str(40 + i), sex="fm"[i % 2]) for i in range(N_CASES)]
    write_manifest(home / "cases.csv", rows)
    return home


@pytest.fixture
def hospital(cases: Path, tmp_path: Path) -> Hospital:
    make_identity(tmp_path / "keys", site="north")
    (tmp_path / "state").mkdir()
    (cases / "cache").mkdir(exist_ok=True)
    (tmp_path / "state" / "cache").symlink_to(cases / "cache")
    keys = {name: tmp_path / "keys" / f"node.{end}" for name, end in (("ca", "ca"), ("node_key", "key"))}
    coordinator = CoordinatorConfig(address="localhost:9", certificate=tmp_path / "keys" / "node.pem", **keys)
    return Hospital(
        SiteConfig(
            site="north",
            manifest=cases / "cases.csv",
            data=cases / "images",
            state=tmp_path / "state",
            minimum_cases=2,
            studies=(tmp_path / "study.toml",),
            coordinator=coordinator,
        )
    )
