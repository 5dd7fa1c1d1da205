"""`fedrad` inside the test's process: what a command prints, its exit code, and the error that it ends with."""

from __future__ import annotations

import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click is going to drop
    from typer.testing import CliRunner, Result

    from simulations.cli import app


def fedrad(*arguments: str | Path, answer: str = "") -> Result:
    """Run a command; ``answer`` is what is typed."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)
