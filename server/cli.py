"""`fedrad coordinator`: what the coordinator of a consortium types."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from common.allocator import loading
from common.errors import FedradError, StateError
from common.logs import JsonLog, LogFormat
from server.authority_cli import authority_app
from server.control_cli import control_app
from server.user_cli import user_app

if TYPE_CHECKING:
    from server.opening import StudyRun

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
Format = Annotated[LogFormat, typer.Option("--log-format", help="Of what is told meanwhile; json: on standard error.")]
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
    log_format: Format = "text",
) -> None:
    """Wait for the study's hospitals, run it, and write its report."""
    with loading():
        from server.observing import ObserverSettings, observing
        from server.progress import StudyProgress
        from server.service import open_federation, run_once

    console = Console(emoji=False)
    _stop_on_signals()
    progress = StudyProgress(console)
    log = JsonLog("coordinator") if log_format == "json" else None
    observers = ObserverSettings(dashboard, metrics, health, dashboard_certificate, dashboard_key)
    tell = log.say if log else progress.say
    with (
        log.until_the_end() if log else progress,
        _opened(study, out, resume, log.journal if log else progress.show) as opened,
        open_federation(home, listen, tell=tell) as federation,
        observing(observers, home, federation, tell=tell) as watch,
    ):
        watch.follow(out)
        run_once(opened, federation)
        _report(out, None if log else console)


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
    log_format: Format = "text",
) -> None:
    """Stay connected with the hospitals and run every study that is put into HOME/queue, one after the other.

    A study that was interrupted goes on where it was. Finished files move to HOME/done, failed ones to HOME/failed.
    """
    with loading():
        from server.observing import ObserverSettings, observing
        from server.queue import StudyQueue
        from server.service import open_federation, serve_queue

    console = Console(emoji=False)
    stop = _stop_on_signals()
    log = JsonLog("coordinator") if log_format == "json" else None

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    def failed(file: str, error: FedradError) -> None:
        if log:
            log.failed("set_aside", error)
        else:
            say(f"{file}: {error}")

    tell = log.say if log else say
    queue = StudyQueue(home, approval=approval)
    observers = ObserverSettings(dashboard, metrics, health, dashboard_certificate, dashboard_key)
    with (
        log.until_the_end() if log else nullcontext(),
        open_federation(home, listen, tell=tell) as federation,
        observing(observers, home, federation, queue=queue, tell=tell) as watch,
    ):
        listener = log.journal if log else None
        serve_queue(queue, federation, stop=stop, tell=tell, failed=failed, follow=watch.follow, listener=listener)


@coordinator_app.command()
def submit(
    study: Annotated[Path, typer.Argument(help="The study file, on this machine, which is the SuperLink's.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, journal and report; an interrupted run goes on.")],
    connection: Annotated[str, typer.Option(help="Of the SuperLink, in $FLWR_HOME/config.toml.")],
    app: Annotated[Path, typer.Option(help="fedrad's source folder.")] = Path(),
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the run.")] = 15.0,
) -> None:
    """Submit a study to an unmodified SuperLink and wait until it is complete; under [b]fedrad supervise[/], again.

    A submission that was interrupted follows the run that it left behind. docs/stock_flower.md says more.
    """
    from common.config.loading import load
    from common.config.study import StudyConfig
    from server.submission import Submission

    _stop_on_signals()
    load(study, StudyConfig)  # a file with faults is told at once
    console = Console(emoji=False)
    Submission(app, connection, study, out, every_s).run(lambda text: console.print(text, highlight=False))


@coordinator_app.command()
def export(
    folder: RunFolder,
    into: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for what is written.")],
    to: Annotated[str, typer.Option(help="[b]tensorboard[/] or [b]mlflow[/].")],
) -> None:
    """Write the learning curves of a run for TensorBoard or MLflow; both come with the extra `export`."""
    from server.export import export as write
    from server.opening import require_run
    from server.results import load_results

    if to not in ("tensorboard", "mlflow"):
        raise StateError(f"{to!r}: expected tensorboard or mlflow")
    require_run(folder)
    n = write(load_results([folder]), "mlflow" if to == "mlflow" else "tensorboard", into)
    Console(emoji=False).print(f"{n} points: {into}", highlight=False, soft_wrap=True)


@coordinator_app.command()
def report(folder: RunFolder) -> None:
    """Write the report of a run again, from its checkpoints; also of a run that has not finished."""
    from server.opening import require_run

    require_run(folder)
    _report(folder, Console(emoji=False))


@contextmanager
def _opened(study: Path, out: Path, resume: bool, listener: Callable[[dict[str, Any]], None]) -> Iterator[StudyRun]:
    from server.opening import open_run

    yield open_run(study, out, resume=resume, listener=listener)


def _report(folder: Path, console: Console | None) -> None:
    """Write tables and report; say so where there is a terminal to say it on."""
    from server.report import write_report
    from server.results import load_results, summary_table, write_tables

    results = load_results([folder])
    write_tables(results, folder)
    write_report(results, folder / "report.html")
    if console is None:
        return
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
