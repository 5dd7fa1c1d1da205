"""`fedrad site`: what hospital IT and the local researcher type."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from client.study_at_site import PreparedStudy
    from common.config.site import SiteConfig
    from common.config.study import StudyConfig

site_app = typer.Typer(
    no_args_is_help=True, help="A hospital: check its cases, extract features, take part in studies."
)

SiteFile = Annotated[Path, typer.Argument(help="The hospital's own site.toml.")]


@site_app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder for this hospital's key; new, and private to it.")],
    site: Annotated[str, typer.Option(help="This hospital's name in studies.")],
) -> None:
    """Make this hospital's private key, which never leaves it, and a signing request for the coordinator."""
    from client.identity import REQUEST_FILE, make_identity

    make_identity(folder, site=site)
    request = folder / REQUEST_FILE
    Console().print(f"send {request} to the coordinator; put the ca.pem and node.pem that come back into {folder}")


@site_app.command()
def check(site_file: SiteFile) -> None:
    """Read every case as each approved study will, and say which are left out and why. Nothing leaves the hospital.

    Exit code 1 where a case is left out, so that a script can notice.
    """
    config, studies = _load(site_file)
    console = Console()
    excluded = 0
    for study in studies:
        prepared = _prepare(config, study, console)
        excluded += len(prepared.faults)
        console.print(_summary(config, study, prepared))
        for fault in prepared.faults:
            console.print(f"  [yellow]{fault.code}[/]  {escape(str(fault))}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if excluded else 0)


@site_app.command()
def extract(
    site_file: SiteFile,
    out: Annotated[Path, typer.Option(help="CSV with one row a case; it stays at the hospital.")],
) -> None:
    """Extract the radiomics and clinical table of the first approved study into a local CSV."""
    config, studies = _load(site_file)
    prepared = _prepare(config, studies[0], Console())
    data = prepared.opened().data
    table = data.features.beside(data.clinical)
    import pandas as pd

    frame = pd.DataFrame(table.values, columns=list(table.names), index=pd.Index(table.case_ids, name="case_id"))
    frame.to_csv(out)
    Console().print(f"{table.n_cases} cases x {table.n_features} features: {out}", highlight=False)


@site_app.command()
def start(site_file: SiteFile) -> None:
    """Connect to the coordinator and answer the approved studies until stopped (Ctrl-C or SIGTERM)."""
    from client.node import NodeConnection, serve
    from client.site import Site
    from common.errors import ConfigError

    config, studies = _load(site_file)
    if config.coordinator is None:
        raise ConfigError(str(site_file), ["coordinator: missing; needed to take part in a study"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    site = Site(config, studies)
    console = Console()
    console.print(f"site {config.site}: {len(studies)} approved studies, coordinator {config.coordinator.address}")
    serve(NodeConnection.of(config.coordinator), site.answer, stop=stop, on_event=lambda text: console.print(text, markup=False))


def _load(site_file: Path) -> tuple[SiteConfig, list[StudyConfig]]:
    from common.config.loading import load
    from common.config.site import SiteConfig
    from common.config.study import StudyConfig

    config = load(site_file, SiteConfig).relative_to(site_file.resolve().parent)
    return config, [load(path, StudyConfig) for path in config.studies]


def _prepare(config: SiteConfig, study: StudyConfig, console: Console) -> PreparedStudy:
    from client.study_at_site import PreparedStudy
    from common.journal import JsonLines

    prepared = PreparedStudy(study, config, JsonLines(config.state / "log.jsonl"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{study.name}: cases", total=None)
        while True:
            count = prepared.prepare(1.0)
            progress.update(task, completed=count.n_listed - count.n_pending, total=count.n_listed)
            if not count.n_pending:
                return prepared


def _summary(config: SiteConfig, study: StudyConfig, prepared: PreparedStudy) -> Table:
    from common.config.loading import digest

    count = prepared.prepare(0.0)
    table = Table(title=f"site {config.site}, study {study.name}", show_header=False)
    table.add_row("study digest (SHA-256)", digest(study))
    table.add_row("cases listed", str(count.n_listed))
    table.add_row("usable", str(count.n_usable))
    for code, n in sorted(count.exclusions.items()):
        table.add_row(f"left out: {code}", str(n))
    table.add_row("features a case", str(len(count.feature_names)))
    return table
