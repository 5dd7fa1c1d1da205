"""A random text that only this site knows: which cases a draw of the study holds follows from it.

Whoever could compute the draws could solve sums over many of them for single cases (see `Cohort` in
`common.statistics.procedure`). It is made once and kept, so that a study that is resumed draws the same cases.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import StateError

FILE = "draws.secret"


def draw_secret(state: Path) -> str:
    """The site's secret, 64 hexadecimal digits; made where there is none yet, readable for this user alone.

    Raises
    ------
    StateError
        If it cannot be read or written, or is damaged.
    """
    path = state / FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error
    secret = os.urandom(32).hex()
    with os.fdopen(handle, "w") as stream:
        stream.write(secret)
        stream.flush()
        os.fsync(stream.fileno())
    return secret


def _read(path: Path) -> str:
    try:
        secret = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot read {path}: {error}") from error
    if len(secret) != 64 or set(secret) - set("0123456789abcdef"):
        raise StateError(f"{path} is damaged: remove it, and runs that drew cases cannot be resumed with equal numbers")
    return secret
