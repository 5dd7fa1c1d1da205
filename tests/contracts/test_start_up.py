"""What a site and a coordinator load when they start: parts that few studies need are loaded where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"scipy.stats", "scipy.optimize", "pandas", "sklearn", "monai", "opacus", "radiomics", "lifelines", "xgboost"}


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("client.site, client.node, client.fleet_client", HEAVY | {"matplotlib", "server"}),
        ("server.service, server.coordinator", (HEAVY - {"radiomics"}) | {"SimpleITK", "client"}),
    ],
    ids=["site", "coordinator"],
)
def test_no_heavy_package_is_loaded_at_the_start(modules: str, unneeded: set[str]) -> None:
    code = f"import sys, {modules}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) & unneeded == set()
