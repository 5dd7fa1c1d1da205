"""A start-up kit: what was packed is what is opened, and any change of any byte is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StateError
from common.kit import MAX_FILE_BYTES, Kit, KitManifest, open_kit, pack_kit
from server.provisioning import Authority, init_authority
from tests.small_study import STUDY

MANIFEST = KitManifest(
    site="north",
    address="fl.example.org:443",
    made="2026-11-20T10:00:00+00:00",
    versions={"fedrad": "0.1.0"},
    studies={"studies/small.toml": "0" * 64},
    files={},
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return init_authority(tmp_path_factory.mktemp("home"), addresses=["fl.example.org"])


@pytest.fixture(scope="module")
def kit(authority: Authority) -> bytes:
    files = {"ca.pem": authority.ca_certificate, "studies/small.toml": STUDY.encode()}
    return pack_kit(MANIFEST, files, sign=authority.seal)


def entries(kit: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(kit)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_what_was_packed_is_opened(authority: Authority, kit: bytes) -> None:
    opened = open_kit(kit)
    assert isinstance(opened, Kit)
    assert opened.fingerprint == authority.fingerprint
    assert opened.files["studies/small.toml"] == STUDY.encode()
    assert opened.manifest.model_copy(update={"files": {}}) == MANIFEST


@pytest.mark.parametrize("name", ["kit.json", "kit.sig", "ca.pem", "studies/small.toml"])
def test_a_changed_or_missing_file_is_refused(kit: bytes, name: str) -> None:
    content = entries(kit)
    changed = bytearray(content[name])
    changed[len(changed) // 2] ^= 1
    without = {other: text for other, text in content.items() if other != name}
    for forged in ({**content, name: bytes(changed)}, without):
        with pytest.raises(StateError, match="kit"):
            open_kit(zipped(forged))


def test_an_added_file_is_refused(kit: bytes) -> None:
    with pytest.raises(StateError, match=r"changed after it was signed: node\.pem"):
        open_kit(zipped({**entries(kit), "node.pem": b"x"}))


@pytest.mark.parametrize("name", ["../x.toml", "/etc/x.conf", "studies/../../x.toml", "a/b.toml", "x", "C:\\x.toml"])
def test_names_that_lead_elsewhere_are_refused(kit: bytes, name: str) -> None:
    with pytest.raises(StateError, match="no kit holds"):
        open_kit(zipped({**entries(kit), name: b"x"}))


def test_a_small_file_that_grows_is_refused(kit: bytes) -> None:
    bomb = zipped({**entries(kit), "node.pem": b"0" * (MAX_FILE_BYTES + 1)})
    assert len(bomb) < 10_000
    with pytest.raises(StateError, match="more than 1 MiB"):
        open_kit(bomb)


def test_another_authoritys_kit_opens_but_shows_another_fingerprint(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    forger = init_authority(tmp_path_factory.mktemp("forger"), addresses=["fl.example.org"])
    with pytest.raises(StateError, match="not signed by its authority"):
        open_kit(pack_kit(MANIFEST, {"ca.pem": authority.ca_certificate}, sign=forger.seal))
    files = {"ca.pem": forger.ca_certificate, "studies/small.toml": STUDY.encode()}
    forged = open_kit(pack_kit(MANIFEST, files, sign=forger.seal))
    assert forged.fingerprint != authority.fingerprint


def test_a_study_that_this_version_reads_differently_is_refused(kit: bytes) -> None:
    with pytest.raises(StateError, match=r"install the same version"):
        open_kit(kit).studies()


@given(content=st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_nonsense_is_no_kit(content: bytes) -> None:
    with pytest.raises(StateError):
        open_kit(content)


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_changes_nothing_or_is_refused(kit: bytes, position: float, bit: int) -> None:
    """Some bits of a ZIP file mean nothing (time stamps); what a hospital gets is the signed content in any case."""
    damaged = bytearray(kit)
    damaged[int(position * len(damaged))] ^= 1 << bit
    try:
        opened = open_kit(bytes(damaged))
    except StateError:
        return
    assert opened.files == open_kit(kit).files
