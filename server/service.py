"""The coordinator at work: one study from a folder, or a queue of them with the hospitals connected all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import FederationError, FedradError
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.courses import groups_of
from server.opening import StudyRun, open_run
from server.provisioning import Authority
from server.report import write_report
from server.results import load_results, write_tables
from server.study import run_study

QUEUE, RUNS, DONE, FAILED = "queue", "runs", "done", "failed"
POLL_S = 1.0


def open_federation(home: Path, listen: str, *, tell: Callable[[str], None]) -> FlowerFederation:
    """The listener for hospitals, on ``host:port``; use it in a ``with`` statement.

    ``tell`` hears at once of every certificate that ends soon.
    """
    now = datetime.now(UTC)
    for end in Authority(home).expiring(now=now):
        tell(end.sentence(now))
    return FlowerFederation(CoordinatorSettings(home, listen), on_event=tell)


def run_once(opened: StudyRun, federation: FlowerFederation) -> None:
    """Wait for the study's hospitals and run it to its end; what it finds out is in its folder.

    Raises
    ------
    FederationError
        Naming the hospitals that did not connect in the study's ``join_deadline_s``, and all of `run_study`.
    """
    study = opened.study
    sites = [site.name for site in study.sites]
    deadline = study.federated.join_deadline_s
    missing = federation.wait_for(
        sites, deadline_s=deadline, on_event=lambda text: opened.journal.write("note", text=text)
    )
    if missing:
        raise FederationError(f"not connected after {deadline:g} s: {', '.join(missing)}")
    run_study(study, federation, groups=groups_of(study), store=opened.store, journal=opened.journal)


def serve_queue(
    home: Path, federation: FlowerFederation, *, stop: threading.Event, tell: Callable[[str], None]
) -> None:
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


def _run_queued(home: Path, file: Path, federation: FlowerFederation) -> Path:
    study = load(file, StudyConfig)
    folder = home / RUNS / f"{study.name}-{digest(study)[:12]}"
    opened = open_run(file, folder, resume=folder.exists())
    run_once(opened, federation)
    results = load_results([folder])
    write_tables(results, folder)
    write_report(results, folder / "report.html")
    return folder / "report.html"
