from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

from common.version import LIBRARIES, VERSION, versions

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_the_version_is_that_of_the_distribution():
    assert PYPROJECT["version"] == VERSION


def test_every_library_that_changes_numbers_is_named_without_its_build_tag():
    found = versions()
    assert found.keys() == {"fedrad", *LIBRARIES}
    assert found["fedrad"] == VERSION
    assert found["torch"] == version("torch").split("+")[0]
    assert not [name for name, number in found.items() if "+" in number]
    declared = " ".join(PYPROJECT["dependencies"]).lower()
    assert not [name for name in LIBRARIES if name not in declared]
