"""The coordinator at work: one study from a folder, or a queue of them with the hospitals connected all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import ConfigError, FedradError
from common.federation import Federation
from server.courses import groups_of
from server.opening import StudyRun, open_run
from server.report import write_report
from server.results import load_results, write_tables
from server.study import run_study

QUEUE, RUNS, DONE, FAILED = "queue", "runs", "done", "failed"
POLL_S = 1.0


def run_once(opened: StudyRun, federation: Federation) -> None:
    """Run an opened study to its end; what it finds out is in its folder."""
    run_study(opened.study, federation, groups=groups_of(opened.study), store=opened.store, journal=opened.journal)


def serve_queue(home: Path, federation: Federation, *, stop: threading.Event, tell: Callable[[str], None]) -> None:
    """Run every study file in ``home/queue``, by name, until stopped; a run that was cut off goes on where it was."""
    for name in (QUEUE, RUNS, DONE, FAILED):
        (home / name).mkdir(exist_ok=True)
    tell(f"waiting for study files in {home / QUEUE}")
    while not stop.wait(POLL_S):
        for file in sorted((home / QUEUE).glob("*.toml")):
            folder = FAILED
            try:
                tell(f"{file.name}: report in {_run_queued(home, file, federation)}")
                folder = DONE
            except FedradError as error:
                tell(f"{file.name}: {error}")
            file.replace(home / folder / file.name)


def _run_queued(home: Path, file: Path, federation: Federation) -> Path:
    study = load(file, StudyConfig)
    folder = home / RUNS / f"{study.name}-{digest(study)[:12]}"
    opened = open_run(file, folder, resume=folder.exists())
    run_once(opened, federation)
    results = load_results([folder])
    write_tables(results, folder)
    write_report(results, folder / "report.html")
    return folder / "report.html"


def host_and_port(listen: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as its two parts.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError("--listen", [f"got {listen!r}, expected host:port, for example 0.0.0.0:9443"])
    return host.strip("[]"), int(port)
