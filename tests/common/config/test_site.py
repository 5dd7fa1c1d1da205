"""The hospital's own file: faults at once, and paths that start at the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.loading import load, parse
from common.config.site import SiteConfig
from common.errors import ConfigError

SITE = """
site = "north"
manifest = "cases.csv"
data = "images"
state = "state"
studies = ["studies/lung.toml", "/shared/glioma.toml"]

[coordinator]
address = "fedrad.example.org:9443"
ca = "keys/ca.pem"
node_key = "keys/node.key"
certificate = "keys/node.pem"
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, SiteConfig, source="site.toml")
    return list(caught.value.faults)


def test_the_example_of_the_repository_has_no_fault():
    load(Path(__file__).parents[3] / "configs" / "site.toml", SiteConfig)


def test_five_faults_of_five_kinds_are_listed_at_once():
    text = SITE.replace('manifest = "cases.csv"\n', 'minimum_cases = "ten"\ncolour = 1\n')
    text = text.replace('state = "state"', 'state = "./images/"').replace(":9443", "")
    assert faults_of(text) == [
        "manifest: missing",
        "minimum_cases: got 'ten', expected a whole number",
        r"coordinator.address: got 'fedrad.example.org', expected text that matches "
        r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$",
        "colour: unknown key",
        "file: state: must not be the data folder, fedrad never writes among images",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (":9443", ":94430", "coordinator: address: port 94430 does not exist, expected 1 to 65535"),
        (":9443", ":0", "coordinator: address: port 0 does not exist, expected 1 to 65535"),
        ('site = "north"', 'site = "North hospital"', "site: got 'North hospital', expected text that matches"),
        ('state = "state"', 'state = "state"\ndevice = "gpu"', "device: got 'gpu', expected text that matches"),
        ('state = "state"', 'state = "state"\nprocesses = 0', "processes: got 0, expected greater than or equal to 1"),
        ('studies = ["studies/lung.toml", "/shared/glioma.toml"]', "studies = []", "studies: "),
        ('data = "images"', 'data = "state/images"', "file: data: must not lie in the state folder"),
    ],
)
def test_each_rule_has_its_sentence(old: str, new: str, fault: str):
    assert old in SITE
    (got,) = faults_of(SITE.replace(old, new))
    assert got.startswith(fault)


@pytest.mark.parametrize("address", ["10.0.0.1:9443", "host:1", "[::1]:65535"])
def test_addresses_that_are_fine(address: str):
    site = parse(SITE.replace("fedrad.example.org:9443", address), SiteConfig, source="site.toml")
    assert site.coordinator is not None
    assert site.coordinator.address == address


def test_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path):
    (tmp_path / "site.toml").write_text(SITE)
    site = load(tmp_path / "site.toml", SiteConfig).relative_to(tmp_path)
    assert (site.manifest, site.data, site.state) == (tmp_path / "cases.csv", tmp_path / "images", tmp_path / "state")
    assert site.studies == (tmp_path / "studies/lung.toml", Path("/shared/glioma.toml"))
    assert site.coordinator is not None
    assert site.coordinator.ca == tmp_path / "keys/ca.pem"
    assert site.coordinator.node_key == tmp_path / "keys/node.key"
    assert site.coordinator.certificate == tmp_path / "keys/node.pem"


def test_without_a_coordinator_there_is_nothing_to_move(tmp_path: Path):
    text = SITE[: SITE.index("[coordinator]")]
    assert parse(text, SiteConfig, source="site.toml").relative_to(tmp_path).coordinator is None
