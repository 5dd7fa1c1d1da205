"""What is shipped to run fedrad: container files, compose files and units hold what docs/deployment.md promises.

What cannot run in a test is parsed; the units are judged by systemd where it is installed, and the bundle is made of
wheels of a few bytes and installed without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from common.version import VERSION
from configs.deploy.bundle import describe, requirements
from configs.deploy.sbom import Wheel, bill_of_materials, read_wheels

DEPLOY = Path(__file__).parents[2] / "configs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
COMPOSE = sorted(DEPLOY.glob("compose.*.yaml"))


def stages() -> dict[str, list[str]]:
    """Instructions of each stage of the container file, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Containerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = current = [line]
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def service(path: Path) -> dict[str, Any]:
    (content,) = YAML(typ="safe", pure=True).load(path.read_text())["services"].values()
    return dict(content)


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def test_images_run_as_a_number_that_is_not_root_and_hold_no_secret() -> None:
    found = stages()
    assert set(found) == {"install", "base", "site", "coordinator"}
    for name in ("site", "coordinator"):
        assert found[name][0] == f"FROM base AS {name}"
        assert not any(line.startswith("USER") for line in found[name])
    assert [line for line in found["base"] if line.startswith("USER ")] == ["USER 10001:10001"]
    text = (DEPLOY / "Containerfile").read_text()
    for forbidden in (":latest", "ADD ", "curl", "wget", "docker.sock", "sudo", "chmod 777", "pip install"):
        assert forbidden not in text
    bases = {line.split()[1] for line in chain(*found.values()) if line.startswith("FROM ")} - {"base"}
    assert bases == {"docker.io/library/python:3.11-slim-bookworm"}


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_containers_have_a_read_only_root_no_capability_and_no_socket_of_the_engine(path: Path) -> None:
    found = service(path)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert "cap_add" not in found
    assert "privileged" not in found
    assert found["user"] == "10001:10001"
    assert "no-new-privileges:true" in found["security_opt"]
    assert not any("sock" in volume for volume in found["volumes"])
    assert found["image"].endswith(f":{VERSION}")
    assert {"pids_limit", "mem_limit", "restart"} <= found.keys()


def test_a_hospital_opens_no_port_and_its_images_are_read_only() -> None:
    site = service(DEPLOY / "compose.site.yaml")
    assert "ports" not in site
    assert "network_mode" not in site
    assert "/srv/images:/fedrad/images:ro" in site["volumes"]
    assert [volume for volume in site["volumes"] if volume.endswith(":rw")] == ["./state:/fedrad/state:rw"]
    assert service(DEPLOY / "compose.coordinator.yaml")["ports"] == ["443:9443"]


def test_commands_of_images_and_units_exist() -> None:
    from tests.commands import fedrad

    commands = [json.loads(line[4:]) for line in chain(*stages().values()) if line.startswith("CMD ")]
    commands += [settings(unit)["ExecStart"][0].split()[1:] for unit in UNITS]
    assert len(commands) == 4
    for command in commands:
        shown = fedrad(*command[:2], "--help")
        assert shown.exit_code == 0
        assert all(option in shown.output for option in command if option.startswith("--"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_confine_their_process(unit: Path) -> None:
    found = settings(unit)
    for name, value in {
        "User": "fedrad",
        "ProtectSystem": "strict",
        "ProtectHome": "true",
        "NoNewPrivileges": "true",
        "SocketBindDeny": "any",
        "Restart": "always",
    }.items():
        assert found[name] == [value]
    port = {"fedrad-site": None, "fedrad-coordinator": ["tcp:443"]}[unit.stem]
    assert found.get("SocketBindAllow") == port
    assert found["CapabilityBoundingSet"] == (["CAP_NET_BIND_SERVICE"] if port else [""])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_fault_and_little_exposure(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/fedrad/bin/fedrad", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy], capture_output=True, check=False
    )
    assert judged.returncode == 0, judged.stdout.decode()[-300:]  # exposure at most 2.0 of 10


# --- the bundle ---------------------------------------------------------------------------------------------------


def write_wheel(folder: Path, name: str, version: str, *, requires: tuple[str, ...] = (), script: bool = False) -> Path:
    """A wheel of a few bytes."""
    info = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: Apache-2.0"]
    content = {
        f"{name}.py": "def main():\n    print('it runs')\n",
        f"{info}/METADATA": "\n".join([*lines, *(f"Requires-Dist: {other}" for other in requires)]) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*content, f"{info}/RECORD"]))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    wheels = tmp_path / "bundle" / "wheels"
    write_wheel(wheels, "fedrad", "0.1.0", requires=("some_thing>=1", "other; extra == 'dev'"), script=True)
    write_wheel(wheels, "some_thing", "1.2")
    describe(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_bill_of_materials_names_every_wheel_with_its_hash_and_what_it_needs(bundle: Path) -> None:
    bill = json.loads((bundle / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["purl"] == "pkg:pypi/fedrad@0.1.0"
    (component,) = bill["components"]
    wheel = bundle / "wheels" / "some_thing-1.2-py3-none-any.whl"
    assert component["name"] == "some-thing"
    assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    assert component["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert needs == {"pkg:pypi/fedrad@0.1.0": ["pkg:pypi/some-thing@1.2"], "pkg:pypi/some-thing@1.2": []}
    assert bill == bill_of_materials(read_wheels(bundle / "wheels"), root="fedrad")


def test_sums_hold_every_file_but_themselves(bundle: Path) -> None:
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert {line.split("  ")[1] for line in lines} == files
    assert {"install.sh", "requirements.txt", "sbom.cdx.json", "deploy/Containerfile"} <= files


def test_two_versions_no_wheels_or_no_wheel_are_refused(bundle: Path, tmp_path: Path) -> None:
    write_wheel(bundle / "wheels", "some_thing", "1.3")
    with pytest.raises(ValueError, match="more than one wheel of some-thing"):
        read_wheels(bundle / "wheels")
    with pytest.raises(ValueError, match="no wheels"):
        read_wheels(tmp_path)
    (tmp_path / "x-1-py3-none-any.whl").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is no wheel"):
        Wheel.read(tmp_path / "x-1-py3-none-any.whl")


def install(bundle: Path, target: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    return subprocess.run(
        ["sh", bundle / "install.sh", target], env=environment, capture_output=True, text=True, check=False
    )


def test_the_bundle_installs_without_a_network(bundle: Path, tmp_path: Path) -> None:
    done = install(bundle, tmp_path / "fedrad")
    assert done.returncode == 0, done.stderr
    assert subprocess.check_output([tmp_path / "fedrad" / "bin" / "fedrad"], text=True) == "it runs\n"


def test_a_changed_wheel_is_refused_before_anything_is_installed(bundle: Path, tmp_path: Path) -> None:
    write_wheel(bundle / "wheels", "some_thing", "1.2", requires=("more",))
    done = install(bundle, tmp_path / "fedrad")
    assert done.returncode != 0
    assert not (tmp_path / "fedrad").exists()


def test_pip_installs_what_the_requirements_pin_and_nothing_else(bundle: Path) -> None:
    wheels = read_wheels(bundle / "wheels")
    assert (bundle / "requirements.txt").read_text() == requirements(wheels)
    assert all(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" in requirements(wheels) for w in wheels)
    assert "--no-index --no-deps --find-links wheels --require-hashes" in (bundle / "install.sh").read_text()
