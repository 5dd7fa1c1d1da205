"""What a site and a coordinator load when they start: parts that few studies need are loaded where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"scipy.stats", "scipy.optimize", "pandas", "sklearn", "monai", "opacus", "dp_accounting"}
HEAVY |= {"radiomics", "lifelines", "xgboost"}
NOT_TO_COORDINATE = {"torch", "numba", "scipy.special", "matplotlib", "PIL", "SimpleITK", "sqlalchemy", "alembic"}
"""A coordinator's memory is 300 MB beside three times the model, and each of these takes 20 to 180 MB."""

NOT_TO_TRAIN = {"numba", "pywt", "scipy.ndimage", "scipy.special", "scipy.spatial", "fastapi", "starlette", "uvicorn"}
NOT_TO_TRAIN |= {"matplotlib", "PIL", "torch._dynamo", "torch.onnx", "sympy"}
"""A site that trains a network on images needs none; those of features and solvers are loaded with the first case."""


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("client.cli, client.site, client.node, client.preflight", HEAVY | NOT_TO_TRAIN | {"server"}),
        ("server.service, server.coordinator", HEAVY | NOT_TO_COORDINATE | {"client"}),
        (
            "simulations.cli, server.opening, server.service, server.observing, server.dashboard, server.metrics",
            HEAVY | NOT_TO_COORDINATE,
        ),
    ],
    ids=["site", "coordinator", "fedrad coordinator"],
)
def test_no_heavy_package_is_loaded_at_the_start(modules: str, unneeded: set[str]) -> None:
    code = f"import sys, {modules}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) & unneeded == set()
