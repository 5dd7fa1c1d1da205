"""`make bundle`: everything that a machine without a network needs to install fedrad, in one folder and one archive.

::

    wheels/              fedrad and every package that it needs, for the Python and system that made the bundle
    requirements.txt     each with its version and SHA-256; pip refuses everything else
    SHA256SUMS           of every file
    sbom.cdx.json        bill of materials (CycloneDX 1.6)
    install.sh           checks the sums, makes an environment, installs into it; no network, no administrator's rights
    deploy/              container file, compose files, systemd units
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from configs.deploy.sbom import Wheel, read_wheels, write_bill_of_materials

ROOT = Path(__file__).parents[2]
BUILD_FIRST = "pyradiomics==3.0.1"
"""Its setup imports numpy, so it cannot be built in isolation (docs/decisions.md, "Installing")."""

SOURCES = ("common", "client", "server", "simulations", "configs", "pyproject.toml", "README.md", "LICENSE")
SUMS, REQUIREMENTS, SBOM = "SHA256SUMS", "requirements.txt", "sbom.cdx.json"
DEPLOY_FILES = ("install.sh", "Containerfile", "*.yaml", "*.service")


def build_wheels(folder: Path) -> None:
    """Fill ``folder`` with wheels, with the ordinary pip and the versions of ``constraints.txt``."""
    folder.mkdir(parents=True)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    with (
        tempfile.TemporaryDirectory() as clean
    ):  # a build beside the source would take up what former builds left there
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(clean) / name)
        for package in (BUILD_FIRST, clean):
            _pip("wheel", "--no-deps", "--no-build-isolation", *constraints, "-w", str(folder), package)
    (own,) = folder.glob("fedrad-*.whl")
    _pip("wheel", *constraints, "--find-links", str(folder), "-w", str(folder), "torch==2.13.0", str(own))


def describe(folder: Path) -> None:
    """Write requirements, bill of materials and install script beside ``folder/wheels``, and the sums of everything.

    Raises
    ------
    ValueError
        If the wheels are damaged, doubled, or without fedrad.
    """
    wheels = read_wheels(folder / "wheels")
    if "fedrad" not in {wheel.name for wheel in wheels}:
        raise ValueError(f"{folder / 'wheels'} holds no fedrad")
    (folder / REQUIREMENTS).write_text(requirements(wheels))
    write_bill_of_materials(wheels, folder / SBOM, root="fedrad")
    deploy = folder / "deploy"
    deploy.mkdir()
    for pattern in DEPLOY_FILES:
        for path in sorted(Path(__file__).parent.glob(pattern)):
            shutil.copy(path, folder if path.name == "install.sh" else deploy)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in files))


def requirements(wheels: Sequence[Wheel]) -> str:
    """Lines for ``pip install --require-hashes``."""
    return "".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)  # noqa: S603  # pip of this environment


def main() -> None:
    """Build the bundle: ``python -m configs.deploy.bundle --out dist``."""
    parser = argparse.ArgumentParser(description="Everything that an installation without a network needs.")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    from common.version import VERSION

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"fedrad-{VERSION}-python{version}-{platform.system().lower()}-{platform.machine()}"
    folder = out / name
    if folder.exists():
        sys.exit(f"{folder} exists already")
    build_wheels(folder / "wheels")
    describe(folder)
    archive = out / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=name)
    print(f"{archive}: {archive.stat().st_size / 2**20:.0f} MiB, SHA-256 {_sha256(archive)}")


if __name__ == "__main__":
    main()
