"""A bill of materials (CycloneDX 1.6, JSON) of a folder of wheels, from the wheels themselves."""

from __future__ import annotations

import email
import hashlib
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True)
class Wheel:
    """One wheel file: what its metadata say, and its SHA-256."""

    path: Path
    name: str
    version: str
    licence: str
    requires: tuple[str, ...]
    sha256: str

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Read a wheel.

        Raises
        ------
        ValueError
            If the file is no wheel.
        """
        metadata = _metadata(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(
            path,
            normalised(metadata["Name"]),
            metadata["Version"],
            _first_line(metadata.get("License-Expression") or metadata.get("License", "")),
            tuple(sorted(set(_required(metadata.get_all("Requires-Dist") or ())))),
            sha256,
        )


def read_wheels(folder: Path) -> list[Wheel]:
    """All wheels of a folder, by name.

    Raises
    ------
    ValueError
        If there is none, or two of the same package.
    """
    wheels = sorted((Wheel.read(path) for path in folder.glob("*.whl")), key=lambda wheel: wheel.name)
    names = [wheel.name for wheel in wheels]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{folder}: more than one wheel of {', '.join(doubled)}")
    if not wheels:
        raise ValueError(f"{folder}: no wheels")
    return wheels


def bill_of_materials(wheels: list[Wheel], *, root: str) -> dict[str, Any]:
    """The CycloneDX document; the same wheels give the same document.

    Parameters
    ----------
    root : str
        Name of the package that the bill is about.
    """
    known = {wheel.name: wheel for wheel in wheels}
    content = "".join(wheel.sha256 for wheel in wheels)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": _component(known[root]) | {"type": "application"}},
        "components": [_component(wheel) for wheel in wheels if wheel.name != root],
        "dependencies": [
            {"ref": wheel.purl, "dependsOn": [known[name].purl for name in wheel.requires if name in known]}
            for wheel in wheels
        ],
    }


def write_bill_of_materials(wheels: list[Wheel], path: Path, *, root: str) -> None:
    path.write_text(json.dumps(bill_of_materials(wheels, root=root), indent=1) + "\n")


def normalised(name: str) -> str:
    """A package name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(wheel: Wheel) -> dict[str, Any]:
    licences = [{"license": {"name": wheel.licence}}] if wheel.licence else []
    return {
        "type": "library",
        "bom-ref": wheel.purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": wheel.purl,
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
        "licenses": licences,
    }


def _metadata(path: Path) -> Message:
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            return email.message_from_bytes(archive.read(name))
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is no wheel: {error}") from error


def _required(lines: Iterable[str]) -> Iterable[str]:
    """Names of required packages; those of extras are left out."""
    for line in lines:
        found = REQUIREMENT.match(line)
        if found and "extra ==" not in line.partition(";")[2]:
            yield normalised(found[1])


def _first_line(text: object) -> str:
    """Some packages put their whole licence where its name belongs; with other letters than ASCII it is no ``str``."""
    line = str(text).strip().partition("\n")[0]
    return line if len(line) < 80 else ""
