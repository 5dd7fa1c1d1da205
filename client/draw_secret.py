"""A random text that only this site knows: which cases a draw of the study holds follows from it.

Whoever could compute the draws could solve sums over many of them for single cases (see `Cohort` in
`common.statistics.procedure`). It is made once and kept, so that a study that is resumed draws the same cases.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import StateError
from common.files import write_secret

FILE = "draws.secret"


def draw_secret(state: Path) -> str:
    """The site's secret, 64 hexadecimal digits; made where there is none yet, readable for this user alone.

    Raises
    ------
    StateError
        If it cannot be read or written, or is damaged.
    """
    path = state / FILE
    write_secret(path, os.urandom(32).hex().encode())
    return _read(path)


def _read(path: Path) -> str:
    try:
        secret = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read {path}: {error}") from error
    if len(secret) != 64 or set(secret) - set("0123456789abcdef"):
        raise StateError(f"{path} is damaged: remove it, and runs that drew cases cannot be resumed with equal numbers")
    return secret
