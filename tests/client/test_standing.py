"""What a running site says of its approvals, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site import Site
from client.site_file import load_site
from client.standing import Standing
from common.config.loading import digest
from common.messages import Hello, Refusal, Welcome
from common.version import versions
from tests.client.cases import STUDY, row, study, write_case, write_manifest
from tests.commands import fedrad

SITE = """
site = "north"
manifest = "cases.csv"
data = "images"
state = "state"
studies = ["study.toml"]
[coordinator]
address = "localhost:9"
ca = "keys/ca.pem"
node_key = "keys/node.key"
certificate = "keys/node.pem"
"""
HELLO = Hello(digest(study()), versions())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for number in range(2):
        write_case(tmp_path / "images", f"P{number}")
    write_manifest(tmp_path / "cases.csv", [row(f"P{number}", malignant=str(number)) for number in range(2)])
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "site.toml").write_text(SITE)
    assert fedrad("site", "init", tmp_path / "keys", "--site", "north").exit_code == 0
    return tmp_path


def standing(home: Path) -> tuple[Standing, list[str]]:
    config, studies = load_site(home / "site.toml")
    told: list[str] = []
    return Standing(Site(config, studies), studies, tell=told.append), told


def approve(home: Path) -> None:
    assert fedrad("site", "approve", home / "study.toml", "--yes", "--site", home / "site.toml").exit_code == 0


def test_with_nothing_approved_the_site_says_that_it_waits(home: Path) -> None:
    waiting, told = standing(home)
    waiting.tell_all("localhost:9")
    assert told == [
        "lung is not approved, so it is refused: fedrad site approve",
        "site north: 0 approved studies, coordinator localhost:9",
        "waiting for an approval: it counts from the next request on, without a restart",
    ]


def test_with_an_approval_nothing_is_waited_for(home: Path) -> None:
    approve(home)
    ready, told = standing(home)
    ready.tell_all("localhost:9")
    assert told == ["site north: 1 approved studies, coordinator localhost:9"]


def test_approvals_count_and_are_told_once_while_the_site_runs(home: Path) -> None:
    site, told = standing(home)
    assert isinstance(site.answer(HELLO), Refusal)
    approve(home)
    assert isinstance(site.answer(HELLO), Welcome)
    assert isinstance(site.answer(HELLO), Welcome)
    assert told == ["lung is approved now: it is answered"]
    revoke = ("site", "revoke-approval", "lung", "--reason", "ethics", "--site", home / "site.toml")
    assert fedrad(*revoke).exit_code == 0
    assert isinstance(site.answer(HELLO), Refusal)
    assert told[1:] == ["lung is approved no longer: it is refused"]
