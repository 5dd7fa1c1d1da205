"""From a signing request to a hospital's folder: with the commands that coordinator and hospital type."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from client.identity import load_key
from client.joining import explain, join, read_kit
from common.config.loading import digest, load
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import ConfigError, FederationError, StateError
from common.kit import Kit
from server.kits import make_kit
from server.provisioning import Authority, init_authority
from server.service import open_federation
from tests.commands import Result, fedrad
from tests.small_study import STUDY, write_study

ADDRESS = "fl.example.org:443"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_authority(tmp_path / "authority", addresses=["fl.example.org", "2001:db8::7"])
    return tmp_path / "authority"


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A hospital that has made its key and its request."""
    assert fedrad("site", "init", tmp_path / "north" / "keys", "--site", "north").exit_code == 0
    return tmp_path / "north"


def kit_command(command: str, home: Path, out: Path, *, request: Path | None, study: Path) -> Result:
    options = ["--request", request] if request else []
    return fedrad("coordinator", command, home, "north", *options, "--address", ADDRESS, "--study", study, "--out", out)


@pytest.fixture
def kit_file(tmp_path: Path, home: Path, hospital: Path) -> Path:
    study, _ = write_study(tmp_path)
    done = kit_command("kit", home, tmp_path / "north-kit.zip", request=hospital / "keys" / "node.csr", study=study)
    assert done.exit_code == 0, done.output
    assert Authority(home).fingerprint in done.output.replace("\n", "")
    return tmp_path / "north-kit.zip"


def joined(kit_file: Path, hospital: Path, home: Path) -> Result:
    told = Authority(home).fingerprint
    return fedrad("site", "join", kit_file, "--keys", hospital / "keys", "--folder", hospital, "--fingerprint", told)


def test_a_kit_becomes_a_site_folder_that_loads(home: Path, hospital: Path, kit_file: Path) -> None:
    done = joined(kit_file, hospital, home)
    assert done.exit_code == 0, done.output
    config = load(hospital / "site.toml", SiteConfig).relative_to(hospital)
    assert config.coordinator is not None
    assert config.coordinator.address == ADDRESS
    assert [load(path, StudyConfig).name for path in config.studies] == ["small"]
    certificate = config.coordinator.certificate.read_bytes()
    assert config.coordinator.ca.read_bytes() == Authority(home).ca_certificate
    assert load_key(config.coordinator.node_key).public_key() is not None
    assert b"BEGIN CERTIFICATE" in certificate
    assert "north.csr" not in (hospital / "README.txt").read_text()
    assert "fedrad site join north-kit.zip --keys keys" in (hospital / "README.txt").read_text()


def test_the_kit_explains_itself_in_plain_words(kit_file: Path) -> None:
    kit = read_kit(kit_file)
    text = "\n".join(explain(kit))
    (study,) = kit.studies().values()
    for part in ("kit for north", ADDRESS, "A small study", "east, north, south", "radiomics, cnn", digest(study)):
        assert part in text


def test_no_private_key_is_in_a_kit(home: Path, kit_file: Path) -> None:
    with zipfile.ZipFile(kit_file) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"PRIVATE" not in content


def test_the_fingerprint_is_asked_for_and_another_one_refused(home: Path, hospital: Path, kit_file: Path) -> None:
    arguments = ("site", "join", kit_file, "--keys", hospital / "keys", "--folder", hospital)
    declined = fedrad(*arguments, answer="n\n")
    assert declined.exit_code == 1
    assert not (hospital / "site.toml").exists()
    assert not (hospital / "keys" / "node.pem").exists()
    wrong = fedrad(*arguments, "--fingerprint", "00" * 32)
    assert isinstance(wrong.exception, StateError)
    assert not (hospital / "site.toml").exists()
    assert fedrad(*arguments, answer="y\n").exit_code == 0


def test_a_changed_kit_is_refused(home: Path, hospital: Path, kit_file: Path) -> None:
    changed = io.BytesIO()
    with zipfile.ZipFile(kit_file) as archive, zipfile.ZipFile(changed, "w") as forged:
        for name in archive.namelist():
            content = archive.read(name)
            forged.writestr(name, content.replace(b"minimum_cases = 2", b"minimum_cases = 1"))
    kit_file.write_bytes(changed.getvalue())
    done = joined(kit_file, hospital, home)
    assert isinstance(done.exception, StateError)
    assert "changed after it was signed: studies/small.toml" in str(done.exception)
    assert not (hospital / "keys" / "ca.pem").exists()


def test_a_kit_for_another_key_is_refused(home: Path, tmp_path: Path, kit_file: Path) -> None:
    fedrad("site", "init", tmp_path / "other" / "keys", "--site", "north")
    done = joined(kit_file, tmp_path / "other", home)
    assert "for another key than those" in str(done.exception)
    assert not (tmp_path / "other" / "site.toml").exists()


def test_a_second_kit_must_be_of_the_same_authority(home: Path, hospital: Path, kit_file: Path, tmp_path: Path) -> None:
    joined(kit_file, hospital, home)
    forger = init_authority(tmp_path / "forger", addresses=["fl.example.org"])
    study, _ = write_study(tmp_path)
    request = (hospital / "keys" / "node.csr").read_bytes()
    forged = tmp_path / "forged.zip"
    forged.write_bytes(make_kit(forger, "north", address=ADDRESS, studies=[study], request=request))
    done = fedrad("site", "join", forged, "--keys", hospital / "keys", "--folder", hospital, answer="y\n")
    assert "by telephone" in str(done.exception)
    assert (hospital / "keys" / "ca.pem").read_bytes() == Authority(home).ca_certificate


def test_the_hospitals_own_files_are_left_alone(home: Path, hospital: Path, kit_file: Path, tmp_path: Path) -> None:
    joined(kit_file, hospital, home)
    (hospital / "site.toml").write_text("# ours\n")
    assert "site.toml exists and was left as it is" in joined(kit_file, hospital, home).output.replace("\n", " ")
    assert (hospital / "site.toml").read_text() == "# ours\n"
    agreed = hospital / "studies" / "small.toml"
    agreed.write_text(STUDY.replace("minimum_cases = 2", "minimum_cases = 9"))
    assert "differs from the one that is there" in str(joined(kit_file, hospital, home).exception)
    assert "minimum_cases = 9" in agreed.read_text()


def test_rotation_keeps_both_keys_and_refuses_the_former(
    home: Path, hospital: Path, kit_file: Path, tmp_path: Path
) -> None:
    joined(kit_file, hospital, home)
    former = Authority(home).registry.read()["north"].certificate_sha256
    fedrad("site", "init", hospital / "keys", "--site", "north", "--key-file", "node-2.key")
    request, study = hospital / "keys" / "node.csr", tmp_path / "small.toml"
    again = kit_command("kit", home, tmp_path / "again.zip", request=request, study=study)
    assert "rotate it" in str(again.exception)
    done = kit_command("rotate", home, tmp_path / "second.zip", request=request, study=study)
    assert done.exit_code == 0, done.output
    assert Authority(home).registry.read()["north"].certificate_sha256 != former
    assert joined(tmp_path / "second.zip", hospital, home).exit_code == 0
    assert (hospital / "keys" / "node-2.pem").exists()
    assert (hospital / "keys" / "node.pem").read_bytes() != (hospital / "keys" / "node-2.pem").read_bytes()


def test_a_new_study_comes_as_a_kit_without_a_certificate(
    home: Path, hospital: Path, kit_file: Path, tmp_path: Path
) -> None:
    joined(kit_file, hospital, home)
    before = Authority(home).registry.read()
    study, _ = write_study(tmp_path, STUDY.replace('name = "small"', 'name = "second"'))
    assert kit_command("kit", home, tmp_path / "more.zip", request=None, study=study).exit_code == 0
    assert Authority(home).registry.read() == before
    assert "node.pem" not in read_kit(tmp_path / "more.zip").files
    assert joined(tmp_path / "more.zip", hospital, home).exit_code == 0
    assert (hospital / "studies" / "second.toml").exists()


def test_nothing_is_signed_before_everything_is_right(home: Path, hospital: Path, tmp_path: Path) -> None:
    authority = Authority(home)
    request = (hospital / "keys" / "node.csr").read_bytes()
    study, _ = write_study(tmp_path)
    (tmp_path / "bad.toml").write_text("name = 3\n")
    wrong = {
        "not for 192.0.2.9": {"address": "192.0.2.9:443"},
        "not for other.example.org": {"address": "other.example.org:443"},
        "expected host:port": {"address": "fl.example.org"},
        "name": {"studies": [tmp_path / "bad.toml"]},
        "at least one study": {"studies": []},
    }
    for sentence, change in wrong.items():
        arguments = {"address": ADDRESS, "studies": [study], "request": request, **change}
        with pytest.raises((StateError, ConfigError, FederationError), match=sentence):
            make_kit(authority, "north", **arguments)
    with pytest.raises(StateError, match="west is not among them"):
        make_kit(authority, "west", address=ADDRESS, studies=[study], request=request)
    with pytest.raises(StateError, match="not admitted"):
        make_kit(authority, "north", address=ADDRESS, studies=[study])
    assert authority.registry.read() == {}
    make_kit(authority, "north", address="[2001:db8::7]:443", studies=[study], request=request)


def test_versions_that_differ_are_named(kit_file: Path) -> None:
    kit = read_kit(kit_file)
    other = kit.manifest.model_copy(update={"versions": {**kit.manifest.versions, "numpy": "0.1"}})
    assert any(
        line.startswith("numpy is ") and line.endswith("0.1 at the coordinator")
        for line in explain(replace(kit, manifest=other))
    )


def test_a_kit_whose_certificate_is_of_another_authority_is_refused(
    home: Path, hospital: Path, kit_file: Path, tmp_path: Path
) -> None:
    kit = read_kit(kit_file)
    other = init_authority(tmp_path / "other", addresses=["fl.example.org"])
    foreign = other.sign((hospital / "keys" / "node.csr").read_bytes(), site="north")
    forged = Kit(kit.manifest, kit.manifest_text, {**kit.files, "node.pem": foreign})
    with pytest.raises(StateError, match="not of its authority"):
        join(forged, keys=hospital / "keys", folder=hospital)


def test_sites_revoke_trust_enrol_and_renew(home: Path, hospital: Path, kit_file: Path, tmp_path: Path) -> None:
    listed = fedrad("coordinator", "sites", home)
    assert listed.exit_code == 0
    assert "north" in listed.output
    assert "admitted" in listed.output
    assert fedrad("coordinator", "revoke", home, "north").exit_code == 0
    assert "revoked" in fedrad("coordinator", "sites", home).output
    own = init_authority(tmp_path / "own", addresses=["127.0.0.1"])
    (tmp_path / "own.pem").write_bytes(own.ca_certificate)
    fedrad("site", "init", tmp_path / "east", "--site", "east")
    signed = own.sign((tmp_path / "east" / "node.csr").read_bytes(), site="east")
    (tmp_path / "east.pem").write_bytes(signed)
    assert fedrad("coordinator", "trust", home, tmp_path / "own.pem").exit_code == 0
    assert fedrad("coordinator", "enrol", home, "east", tmp_path / "east.pem").exit_code == 0
    assert Authority(home).admitted() == ("east",)
    assert fedrad("coordinator", "renew", home, "--address", "new.example.org").exit_code == 0
    study = tmp_path / "small.toml"
    make_kit(Authority(home), "east", address="new.example.org:443", studies=[study])
    assert isinstance(fedrad("coordinator", "trust", home, tmp_path / "absent.pem").exception, StateError)


def test_sites_warns_of_certificates_that_end_soon(home: Path, kit_file: Path) -> None:
    registry = Authority(home).registry
    member = registry.read()["north"]
    registry.write("north", replace(member, not_after="2020-01-01T00:00:00+00:00"))
    listed = fedrad("coordinator", "sites", home)
    assert listed.exit_code == 1
    assert "certificate of site north ended" in listed.output


def test_a_fingerprint_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """rich would show ``:cd:`` as a disc."""
    odd = "cd:ab:x:cd:ok"
    monkeypatch.setattr(Authority, "fingerprint", odd)
    assert odd in fedrad("coordinator", "sites", home).output


def test_the_coordinator_says_at_its_start_what_ends_soon(home: Path, kit_file: Path) -> None:
    registry = Authority(home).registry
    registry.write("north", replace(registry.read()["north"], not_after="2020-01-01T00:00:00+00:00"))
    said: list[str] = []
    with open_federation(home, "127.0.0.1:0", tell=said.append):
        assert any(line.startswith("certificate of site north ended") for line in said)
