"""The version of fedrad and of the libraries that change numbers: compared in the handshake of every run."""

from __future__ import annotations

from importlib.metadata import version

VERSION = "0.1.0"

LIBRARIES = (
    "numpy",
    "scipy",
    "torch",
    "monai",
    "pyradiomics",
    "simpleitk",
    "scikit-learn",
    "numba",
    "xgboost-cpu",
    "dp-accounting",
    "flwr",
)


def versions() -> dict[str, str]:
    """Name -> installed version of fedrad and of each library that changes numbers; build tags are left out."""
    found = {name: version(name).split("+")[0] for name in LIBRARIES}
    return {"fedrad": VERSION, **found}
