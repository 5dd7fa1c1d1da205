"""The switch by which a hospital stops at once: a file that is looked for at every request and before a reply leaves.

A file, and nothing cleverer: it can be made by hand (``touch state/STOPPED``) when all else fails.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import Code, GateError, StateError
from common.files import write_atomic

FILE = "STOPPED"


def stop(state: Path, *, reason: str) -> None:
    """Let nothing leave from now on.

    Raises
    ------
    StateError
        If the file cannot be written.
    """
    state.mkdir(parents=True, exist_ok=True)
    write_atomic(state / FILE, (reason.strip() + "\n").encode())


def resume(state: Path) -> bool:
    """Answer again; False where this hospital had not stopped.

    Raises
    ------
    StateError
        If the file cannot be removed.
    """
    try:
        (state / FILE).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateError(f"cannot remove {state / FILE}: {error.strerror or error}") from error
    return True


def require_running(state: Path) -> None:
    """Refuse while the file is there, or while it cannot be known.

    Raises
    ------
    GateError
        Code ``site_stopped``.
    """
    try:
        os.lstat(state / FILE)
    except FileNotFoundError:
        return
    except OSError as error:
        raise GateError(f"{state / FILE} cannot be looked for: {error}", code=Code.SITE_STOPPED) from error
    raise GateError(f"stopped: {_reason(state / FILE)}; fedrad site resume", code=Code.SITE_STOPPED)


def _reason(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()[:200] or "no reason was given"
    except OSError:
        return "the reason cannot be read"
