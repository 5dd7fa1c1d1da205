"""Writing a file so that a crash, a full disk or a second reader never sees half of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import time

from common.errors import StateError

Buffer = bytes | memoryview

PARTIAL = ".partial-"
"""How the names of half-written files begin."""

ABANDONED_AFTER_S = 3600.0
"""A half-written file that nobody touched for so long belongs to a process that was killed."""


def write_atomic(path: Path, content: bytes | Iterable[Buffer], *, durable: bool = True) -> None:
    """Write a whole file or nothing: a temporary file beside it, flushed to disk, then renamed over it.

    Parameters
    ----------
    content : bytes or iterable of buffers
        Pieces are written one after the other and need not exist at the same time.
    durable : bool
        False leaves the flush to the system. A killed process still leaves a whole file or none, but a machine that
        loses power may leave a damaged one: only for what is checked when it is read, and can be made again.

    Raises
    ------
    StateError
        If the disk is full or the folder cannot be written; a former file is left as it was.
    """
    try:
        _write_atomic(path, content, durable=durable)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error


def _write_atomic(path: Path, content: bytes | Iterable[Buffer], *, durable: bool) -> None:
    handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            for piece in (content,) if isinstance(content, bytes) else content:
                stream.write(piece)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_secret(path: Path, content: bytes) -> bool:
    """A new file that this user alone can read, whole and on the disk, or none.

    Returns
    -------
    bool
        False where the file was there already, which stays as it is: who comes second reads the first one's.

    Raises
    ------
    StateError
        If it cannot be written.
    """
    if path.exists():
        return False
    try:
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(partial, path)  # unlike a rename it never replaces a file
        finally:
            Path(partial).unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove half-written files that a killed process left in ``folder``; those of a living one are left alone."""
    for partial in folder.glob(f"{PARTIAL}*"):
        try:
            abandoned = time() - partial.stat().st_mtime > ABANDONED_AFTER_S
        except FileNotFoundError:
            continue  # its writer finished it meanwhile
        if abandoned:
            partial.unlink(missing_ok=True)
