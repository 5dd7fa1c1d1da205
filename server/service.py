"""The coordinator at work: one study from a folder, or a queue of them with the hospitals connected all the time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.config.loading import digest, error_code, load
from common.config.private_networks import private_network_advice
from common.config.study import StudyConfig
from common.errors import AbortedError, FederationError, FedradError
from common.messages import Done, Finish
from server.control import ControlledFederation, StudyControl
from server.conversation import Conversation
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.courses import groups_of
from server.opening import StudyRun, open_run
from server.provisioning import Authority
from server.queue import DONE, FAILED, RUNS, QueuedStudy, StudyQueue
from server.results import load_results, write_tables
from server.study import run_study

LOG = logging.getLogger("fedrad.coordinator")

POLL_S = 1.0
FAREWELL_S = 10.0
"""For the hospitals of an aborted study to hear of it."""

Listener = Callable[[dict[str, Any]], None]


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

    It heeds the run's control file (`server.control`); how it ended stands in the journal.

    Raises
    ------
    FederationError
        Naming the hospitals that did not connect in the study's ``join_deadline_s``, and all of `run_study`.
    AbortedError
        If a person ended the study, now or before.
    """
    control = StudyControl(opened.folder)
    control.require_not_aborted()
    try:
        _run(opened, federation, control)
    except AbortedError:
        _tell_sites(opened, federation)
        opened.journal.write("aborted", by=control.order().by)
        raise
    except Exception as error:
        text = str(error) if isinstance(error, FedradError) else f"a fault of fedrad's own ({type(error).__name__})"
        opened.journal.write("failed", code=str(error_code(error)), text=text)
        raise


def _run(opened: StudyRun, federation: FlowerFederation, control: StudyControl) -> None:
    study, journal = opened.study, opened.journal

    def waiting(text: str) -> None:
        control.require_not_aborted()
        journal.write("note", text=text)

    for sentence in private_network_advice(study):
        journal.write("note", text=sentence)
    deadline = study.federated.join_deadline_s
    missing = federation.wait_for([site.name for site in study.sites], deadline_s=deadline, on_event=waiting)
    if missing:
        raise FederationError(f"not connected after {deadline:g} s: {', '.join(missing)}")
    controlled = ControlledFederation(federation, control, journal)
    run_study(study, controlled, groups=groups_of(study), store=opened.store, journal=journal)


def _tell_sites(opened: StudyRun, federation: FlowerFederation) -> None:
    """The hospitals that are connected hear that the study is over, so that they release its memory."""
    study_digest = digest(opened.study)
    connected = set(federation.sites()) & {site.name for site in opened.study.sites}
    finish = dict.fromkeys(sorted(connected), Finish(study_digest, "aborted"))
    conversation = Conversation(federation, opened.journal, study_digest)
    for _ in conversation.ask(finish, Done, deadline_s=FAREWELL_S, phase="finish"):
        pass


def serve_queue(
    queue: StudyQueue,
    federation: FlowerFederation,
    *,
    stop: threading.Event,
    tell: Callable[[str], None],
    failed: Callable[[str, FedradError], None],
    follow: Callable[[Path], None] = lambda folder: None,
    listener: Listener | None = None,
) -> None:
    """Run every study of the queue that is due, by name, until stopped; a run that was cut off goes on where it was.

    Parameters
    ----------
    failed : callable
        Told the file name and the error of a study that is set aside.
    follow : callable
        Told the folder of each run before it begins.
    listener : callable, optional
        Handed every journal line of every run.
    """
    queue.create()
    tell("waiting for study files in the queue")
    while not stop.wait(POLL_S):
        due = queue.due()  # asked again after each study: an approval may have come meanwhile
        if not due:
            continue
        folder = FAILED
        try:
            _run_queued(queue.home, due[0], federation, follow, listener)
            tell(f"{due[0].file.name}: done, its report is written")
            folder = DONE
        except FedradError as error:
            failed(due[0].file.name, error)
        except Exception as error:
            LOG.exception("study %s", due[0].file.name)
            failed(due[0].file.name, FederationError(f"failed by a fault of fedrad's own ({type(error).__name__})"))
        due[0].file.replace(queue.home / folder / due[0].file.name)


def _run_queued(
    home: Path,
    entry: QueuedStudy,
    federation: FlowerFederation,
    follow: Callable[[Path], None],
    listener: Listener | None,
) -> None:
    study = load(entry.file, StudyConfig)
    folder = home / RUNS / f"{study.name}-{digest(study)[:12]}"
    opened = open_run(entry.file, folder, resume=folder.exists(), listener=listener)
    follow(folder)
    run_once(opened, federation)
    from server.report import write_report  # its figures are a library that no round needs

    results = load_results([folder])
    write_tables(results, folder)
    write_report(results, folder / "report.html")
