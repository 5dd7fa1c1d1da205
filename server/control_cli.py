"""`fedrad coordinator`: the commands about a running study: status, pause, resume, abort, approve."""

from __future__ import annotations

import getpass
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from common.errors import StateError

if TYPE_CHECKING:
    from server.control import Wish

control_app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(help="Folder of a study run.")]


@control_app.command()
def status(
    folder: RunFolder,
    follow: Annotated[bool, typer.Option(help="Keep showing until the study has ended.")] = False,
) -> None:
    """Show phase, sites, who is awaited and how far each model is."""
    from common.journal import JsonLines
    from server.opening import JOURNAL_FILE, require_run
    from server.status import StudyStatus
    from server.status_view import status_view

    require_run(folder)
    journal = JsonLines(folder / JOURNAL_FILE)
    console = Console(emoji=False)
    lines, offset = journal.read_from(0)
    current = StudyStatus.of(lines)
    if not follow:
        console.print(status_view(current))
        return
    with Live(status_view(current), console=console, auto_refresh=False) as live:
        while not current.ended:
            threading.Event().wait(1.0)
            lines, offset = journal.read_from(offset)
            for line in lines:
                current.take(line)
            live.update(status_view(current), refresh=True)


@control_app.command()
def pause(folder: RunFolder) -> None:
    """Hold a study back after the round that it is in; it stays paused over restarts."""
    _give(folder, "pause")
    _say("the study pauses when the answers to its present question are in")


@control_app.command()
def resume(folder: RunFolder) -> None:
    """Let a paused study go on."""
    _give(folder, "run")
    _say("the study goes on")


@control_app.command()
def abort(
    folder: RunFolder,
    study: Annotated[str, typer.Option(help="The study's name once more, so that no other one is ended.")],
) -> None:
    """End a study for good. What it has found out so far stays in its folder."""
    from common.config.loading import load
    from common.config.study import StudyConfig
    from server.opening import STUDY_FILE, require_run

    require_run(folder)
    name = load(folder / STUDY_FILE, StudyConfig).name
    if study != name:
        raise StateError(f"{folder} holds study {name}, not {study}: nothing is changed")
    _give(folder, "abort")
    _say("the study ends after the next answer")


@control_app.command()
def approve(
    home: Annotated[Path, typer.Argument(help="Folder of the authority, with the queue in it.")],
    study: Annotated[str, typer.Argument(help="SHA-256 of the study, or its first digits (8 or more).")],
) -> None:
    """Let a study that waits in the queue start (see [b]start --approval[/])."""
    from server.queue import StudyQueue

    queue = StudyQueue(home, approval=True)
    found = [entry for entry in queue.entries() if len(study) >= 8 and entry.digest.startswith(study)]
    if len(found) != 1:
        raise StateError(f"{len(found)} studies of the queue begin with {study!r}, expected one")
    queue.approve(found[0].digest, by=getpass.getuser())
    _say(f"{found[0].name} {found[0].digest} is approved")


def _give(folder: Path, wish: Wish) -> None:
    from common.journal import JsonLines
    from server.control import StudyControl
    from server.opening import JOURNAL_FILE, require_run

    require_run(folder)
    StudyControl(folder).give(wish, by=getpass.getuser(), journal=JsonLines(folder / JOURNAL_FILE))


def _say(text: str) -> None:
    Console(emoji=False).print(text, highlight=False, soft_wrap=True)
