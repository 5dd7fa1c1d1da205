"""Opening the folder of a study run: new, resumed, or refused; with its journal, checkpoints and copy of the study."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import StateError
from common.files import PARTIAL
from common.journal import JsonLines
from common.version import versions
from server.checkpoint import CheckpointStore, write_atomic

STUDY_FILE = "study.toml"
JOURNAL_FILE = "events.jsonl"
VERSIONS_FILE = "versions.json"


@dataclass(frozen=True)
class StudyRun:
    """A run's folder, opened."""

    folder: Path
    study: StudyConfig
    store: CheckpointStore
    journal: JsonLines


def open_run(
    study_file: Path, folder: Path, *, resume: bool, listener: Callable[[dict[str, Any]], None] | None = None
) -> StudyRun:
    """Open ``folder`` for a run of the study.

    Raises
    ------
    ConfigError
        If the study file has faults.
    StateError
        If the folder holds a run already and ``resume`` is False, or holds a run of another study, or one that other
        versions of the libraries that change numbers began.
    """
    study = load(study_file, StudyConfig)
    copy = folder / STUDY_FILE
    if copy.exists():
        if not resume:
            raise StateError(f"{folder} holds a run already; go on with --resume, or name another folder")
        found = digest(load(copy, StudyConfig))
        if found != digest(study):
            raise StateError(f"{folder} holds study {found[:12]}, the file is study {digest(study)[:12]}: not the same")
        _require_same_versions(folder / VERSIONS_FILE)
    elif folder.exists() and any(not path.name.startswith(PARTIAL) for path in folder.iterdir()):
        raise StateError(f"{folder} is not empty and holds no run; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(copy, study_file.read_bytes())
    write_atomic(folder / VERSIONS_FILE, json.dumps(versions(), indent=1).encode())
    journal = JsonLines(folder / JOURNAL_FILE, listener=listener)
    return StudyRun(folder, study, CheckpointStore(folder / "checkpoints", digest(study)), journal)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process: two that write the same checkpoints would spoil both.

    Raises
    ------
    StateError
        If another process holds it. Who dies holds nothing.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"another process runs the study in {folder}") from error
        yield
    finally:
        os.close(descriptor)


def _require_same_versions(path: Path) -> None:
    """Half a study by one version and half by another would be a study by neither."""
    if not path.exists():
        return
    try:
        began = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    own = versions()
    differing = [
        f"{name} {own.get(name, 'absent')} here, {began.get(name, 'absent')} when it began"
        for name in sorted(own.keys() | began.keys())
        if own.get(name) != began.get(name)
    ]
    if differing:
        raise StateError(f"{path.parent} was begun with other versions: {'; '.join(differing)}")


def empty_former_run(folder: Path, marker: str) -> None:
    """Remove a folder that carries ``marker``; any other folder with content is left alone.

    Raises
    ------
    StateError
        If the folder has content without the marker.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / marker).exists():
        raise StateError(f"{folder} was not made by fedrad (no {marker} in it) and is not removed")
    shutil.rmtree(folder)


def require_run(folder: Path) -> None:
    """Raise `StateError` where ``folder`` holds no study run."""
    if not (folder / STUDY_FILE).exists():
        raise StateError(f"{folder} holds no study run: no {STUDY_FILE} in it")
