"""`fedrad coordinator`: what the coordinator of a consortium types."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from server.authority_cli import authority_app
from server.control_cli import control_app
from server.user_cli import user_app

coordinator_app = typer.Typer(
    no_args_is_help=True, help="The coordinator: certificates, studies, their state and their reports."
)
coordinator_app.add_typer(authority_app)
coordinator_app.add_typer(control_app)
coordinator_app.add_typer(user_app, name="user")

Home = Annotated[Path, typer.Option(help="Folder of the authority, as made by [b]init[/].")]
Listen = Annotated[str, typer.Option(help="Address and port that hospitals reach, for example 0.0.0.0:9443.")]
Page = Annotated[str, typer.Option(help="Address of the web page, for example 127.0.0.1:9444; none without it.")]
PageCertificate = Annotated[Path | None, typer.Option(help="The page's own certificate; else the coordinator's.")]
PageKey = Annotated[Path | None, typer.Option(help="Key of the page's own certificate.")]
Metrics = Annotated[str, typer.Option(help="Loopback address of the Prometheus metrics; none without it.")]
Health = Annotated[str, typer.Option(help="Loopback address of the gRPC health service; none without it.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a study run.")]


@coordinator_app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study file that all hospitals agreed to.")],
    home: Home,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, journal and report.")],
    listen: Listen,
    resume: Annotated[bool, typer.Option(help="Go on from the last complete round found in OUT.")] = False,
    dashboard: Page = "",
    dashboard_certificate: PageCertificate = None,
    dashboard_key: PageKey = None,
    metrics: Metrics = "",
    health: Health = "",
) -> None:
    """Wait for the study's hospitals, run it, and write its report."""
    from server.observing import ObserverSettings, observing
    from server.opening import open_run
    from server.progress import StudyProgress
    from server.service import open_federation, run_once

    console = Console(emoji=False)
    _stop_on_signals()
    progress = StudyProgress(console)
    opened = open_run(study, out, resume=resume, listener=progress.show)
    observers = ObserverSettings(dashboard, metrics, health, dashboard_certificate, dashboard_key)
    with (
        progress,
        open_federation(home, listen, tell=progress.say) as federation,
        observing(observers, home, federation, tell=progress.say) as watch,
    ):
        watch.follow(out)
        run_once(opened, federation)
    _report(out, console)


@coordinator_app.command()
def start(
    home: Home,
    listen: Listen,
    approval: Annotated[bool, typer.Option(help="A study waits in the queue until somebody approves it.")] = False,
    dashboard: Page = "",
    dashboard_certificate: PageCertificate = None,
    dashboard_key: PageKey = None,
    metrics: Metrics = "",
    health: Health = "",
) -> None:
    """Stay connected with the hospitals and run every study that is put into HOME/queue, one after the other.

    A study that was interrupted goes on where it was. Finished files move to HOME/done, failed ones to HOME/failed.
    """
    from server.observing import ObserverSettings, observing
    from server.queue import StudyQueue
    from server.service import open_federation, serve_queue

    console = Console(emoji=False)
    stop = _stop_on_signals()

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    queue = StudyQueue(home, approval=approval)
    observers = ObserverSettings(dashboard, metrics, health, dashboard_certificate, dashboard_key)
    with (
        open_federation(home, listen, tell=tell) as federation,
        observing(observers, home, federation, queue=queue, tell=tell) as watch,
    ):
        serve_queue(queue, federation, stop=stop, tell=tell, follow=watch.follow)


@coordinator_app.command()
def report(folder: RunFolder) -> None:
    """Write the report of a run again, from its checkpoints; also of a run that has not finished."""
    from server.opening import require_run

    require_run(folder)
    _report(folder, Console(emoji=False))


def _report(folder: Path, console: Console) -> None:
    from server.report import write_report
    from server.results import load_results, summary_table, write_tables

    results = load_results([folder])
    write_tables(results, folder)
    write_report(results, folder / "report.html")
    console.print(summary_table(results))
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _stop_on_signals() -> threading.Event:
    """SIGTERM acts like Ctrl-C, so that a supervisor's stop ends the study cleanly too."""
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    return stop
