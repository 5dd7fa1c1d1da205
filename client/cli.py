"""`fedrad site`: what hospital IT and the local researcher type."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.governance_cli import governance_app
from client.site_file import SiteFile, load_site
from common.allocator import loading
from common.logs import JsonLog, LogFormat

if TYPE_CHECKING:
    from client.prepared_study import PreparedStudy
    from common.config.site import SiteConfig
    from common.config.study import StudyConfig
    from common.messages import Landmarks

site_app = typer.Typer(
    no_args_is_help=True, help="A hospital: check its cases, extract features, take part in studies."
)
site_app.add_typer(governance_app)


@site_app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder for this hospital's key; new, and private to it.")],
    site: Annotated[str, typer.Option(help="This hospital's name in studies.")],
    key_file: Annotated[
        str, typer.Option(help="File for the key; to rotate, name a new one, such as node-2.key.")
    ] = "node.key",
) -> None:
    """Make this hospital's private key, which never leaves it, and a signing request for the coordinator."""
    from client.identity import REQUEST_FILE, make_identity

    make_identity(folder, site=site, key_file=key_file)
    Console(soft_wrap=True, emoji=False).print(
        f"send {folder / REQUEST_FILE} to the coordinator; with the kit that comes back: "
        f"fedrad site join KIT --keys {folder}",
        highlight=False,
    )


@site_app.command()
def join(
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="The start-up kit that the coordinator sent.")],
    keys: Annotated[Path, typer.Option(help="Folder with this hospital's key, as made by [b]init[/].")],
    folder: Annotated[Path, typer.Option(help="This hospital's folder: site.toml and studies/ go there.")] = Path(),
    fingerprint: Annotated[
        str, typer.Option(help="The authority's fingerprint as told by telephone; asked for where it is left out.")
    ] = "",
) -> None:
    """Check a start-up kit, say what it asks for, and write the site file, certificates and studies."""
    from client.joining import differing_versions, explain, read_kit, require_fingerprint
    from client.joining import join as write_kit

    console = Console(soft_wrap=True, highlight=False, emoji=False)  # ":cd:" in a fingerprint is no disc
    kit = read_kit(kit_file)
    if fingerprint:
        require_fingerprint(kit, fingerprint)
    console.print("signed by its authority, unchanged")
    for line in explain(kit):
        console.print(f"- {escape(line)}")
    console.print(f"- fingerprint of the authority: [bold]{kit.fingerprint}[/]")
    if not fingerprint:
        typer.confirm("Is this the fingerprint that the coordinator tells you by telephone?", abort=True)
    joined = write_kit(kit, keys=keys, folder=folder)
    console.print(f"written: {', '.join(map(str, joined.written))}")
    for path in joined.kept:
        console.print(f"[yellow]{escape(str(path))} exists and was left as it is; compare it with the kit's[/]")
    if differing_versions(kit.manifest.versions):
        console.print("[yellow]install the coordinator's versions: a study refuses others[/]")
    console.print(f"next: complete {folder / 'site.toml'}, then fedrad site preflight {folder / 'site.toml'}")


@site_app.command()
def preflight(site_file: SiteFile) -> None:
    """Say in one screen what works and what to do about the rest: network, certificates, clock, disk, GPU, versions.

    Nothing but one signed "are you there" leaves the hospital. Exit code 1 where anything has to be done.
    """
    from client.preflight import check_site

    config, studies = load_site(site_file)
    table = Table("", "check", "finding", title=f"site {config.site}: preflight", show_lines=False)
    signs = {"ok": "[green]OK[/]", "attention": "[yellow]SOON[/]", "failed": "[red]TO DO[/]", "skipped": "[dim]-[/]"}
    findings = check_site(config, studies)
    for finding in findings:
        advice = f"\n[bold]{escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(signs[finding.state], finding.check, escape(finding.detail) + advice)
    Console(emoji=False).print(table, highlight=False)  # ":cd:" in a fingerprint is no disc
    raise typer.Exit(1 if any(finding.state == "failed" for finding in findings) else 0)


@site_app.command()
def check(
    site_file: SiteFile,
    report: Annotated[
        Path | None,
        typer.Option(
            help="HTML page on images, ROIs and clinical values; it shows patients and stays at the hospital."
        ),
    ] = None,
) -> None:
    """Read every case as each approved study will, and say which are left out and why. Nothing leaves the hospital.

    Exit code 1 where a case is left out, so that a script can notice.
    """
    config, studies = load_site(site_file)
    console = Console(emoji=False)
    excluded = 0
    for study in studies:
        prepared = _prepare(config, study, console)
        excluded += len(prepared.faults)
        console.print(_summary(config, study, prepared))
        for fault in prepared.faults:
            console.print(f"  [yellow]{fault.code}[/]  {escape(str(fault))}", highlight=False, soft_wrap=True)
        if report is not None:
            _report(config, study, _page(report, study, studies), console)
    raise typer.Exit(1 if excluded else 0)


@site_app.command()
def extract(
    site_file: SiteFile,
    out: Annotated[Path, typer.Option(help="CSV with one row a case; it stays at the hospital.")],
) -> None:
    """Extract the radiomics and clinical table of the first approved study into a local CSV."""
    config, studies = load_site(site_file)
    prepared = _prepare(config, studies[0], Console(emoji=False))
    data = prepared.opened(prepared.landmarks).data
    table = data.features.beside(data.clinical)
    import pandas as pd

    frame = pd.DataFrame(table.values, columns=list(table.names), index=pd.Index(table.case_ids, name="case_id"))
    frame.to_csv(out)
    Console(emoji=False).print(f"{table.n_cases} cases x {table.n_features} features: {out}", highlight=False)


@site_app.command()
def start(
    site_file: SiteFile,
    log_format: Annotated[
        LogFormat, typer.Option(help="Of what is told meanwhile; json: on standard error, without identifiers.")
    ] = "text",
) -> None:
    """Connect to the coordinator and answer the approved studies until stopped (Ctrl-C or SIGTERM)."""
    log = JsonLog("site") if log_format == "json" else None
    with log.until_the_end() if log else nullcontext():
        _serve(site_file, log)


def _serve(site_file: Path, log: JsonLog | None) -> None:
    with loading():
        from client.node import NodeConnection, serve
        from client.preflight import check_certificate
        from client.site import Site
        from client.standing import Standing
        from common.errors import ConfigError
        from common.wire import Limits

    console = Console(emoji=False)

    def tell(text: str) -> None:
        if log:
            log.say(text)
        else:
            console.print(text, markup=False)

    config, studies = load_site(site_file)
    if config.coordinator is None:
        raise ConfigError(str(site_file), ["coordinator: missing; needed to take part in a study"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    site = Site(config, studies)
    standing = Standing(site, studies, tell=tell)
    standing.tell_all(config.coordinator.address)
    connection = NodeConnection.of(config.coordinator)
    certificate = check_certificate(connection, config.site)
    if certificate.advice:
        tell(f"certificate {certificate.detail}; {certificate.advice}")
    limits = Limits(array_bytes=int(config.gate.max_request_mb * 10**6))
    serve(connection, standing.answer, stop=stop, on_event=tell, limits=limits, on_malformed=site.note_malformed)


@site_app.command()
def supernode(
    site_file: SiteFile,
    key_only: Annotated[bool, typer.Option(help="Write the public key that the SuperLink registers, and end.")] = False,
) -> None:
    """As start, through an unmodified Flower SuperLink: code that comes with a run is hashed, never run.

    Only runs whose bundle is in allowed_bundles of site.toml are answered, and by this fedrad.
    """
    from client.site import Site
    from client.supernode import prepare_keys, serve_supernode
    from common.errors import ConfigError

    config, studies = load_site(site_file)
    if config.coordinator is None:
        raise ConfigError(str(site_file), ["coordinator: missing; it names the SuperLink and this hospital's key"])
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if key_only:
        console.print(f"to be registered with the SuperLink: {prepare_keys(config.coordinator, config.state)}")
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console.print(f"site {config.site}: {len(config.allowed_bundles)} allowed bundles, {config.coordinator.address}")
    serve_supernode(Site(config, studies), config.coordinator, stop=stop)


@site_app.command(name="bundle-hash")
def bundle_hash(
    bundle: Annotated[Path, typer.Argument(help="A Flower bundle (.fab), as flwr build writes it.")],
) -> None:
    """Print the SHA-256 of a bundle, as allowed_bundles in site.toml lists it. Nothing of the bundle is run."""
    from client.bundle_guard import bundle_hash

    Console(soft_wrap=True, highlight=False, emoji=False).print(bundle_hash(bundle.read_bytes()))


def _prepare(config: SiteConfig, study: StudyConfig, console: Console) -> PreparedStudy:
    from client.prepared_study import PreparedStudy
    from common.journal import JsonLines
    from common.messages import TRAINING, landmark_table_name

    prepared = PreparedStudy(study, config, JsonLines(config.state / "log.jsonl"))
    waiting = [image.name for image in study.images if image.waiting]
    for image in waiting:
        _advance(prepared, landmark_table_name(image), {}, f"{study.name}: percentiles of {image}", console)
    if waiting:
        console.print(f"{', '.join(waiting)}: landmarks of this site's cases alone; the study's are not known yet")
    _advance(prepared, TRAINING, prepared.own_landmarks(), f"{study.name}: cases", console)
    return prepared


def _advance(prepared: PreparedStudy, table: str, landmarks: Landmarks, label: str, console: Console) -> None:
    with _progress(console) as progress:
        task = progress.add_task(label, total=None)
        n_pending = 1
        while n_pending:
            count = prepared.prepare(1.0, table, landmarks)
            n_pending = count.n_pending
            progress.update(task, completed=count.n_listed - n_pending, total=count.n_listed)


def _page(report: Path, study: StudyConfig, studies: list[StudyConfig]) -> Path:
    """One page a study: of several, each has its study's name before the suffix."""
    return report if len(studies) == 1 else report.with_name(f"{report.stem}-{study.name}{report.suffix}")


def _report(config: SiteConfig, study: StudyConfig, page: Path, console: Console) -> None:
    from client.ingest.manifest import read_manifest
    from client.quality import report_site

    manifest = read_manifest(config.manifest, study, data=config.data, site=config.site)
    page.parent.mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        task = progress.add_task(f"{study.name}: quality", total=len(manifest.rows))
        found = report_site(
            manifest,
            study,
            page,
            title=f"site {config.site}, study {study.name}",
            processes=config.processes,
            on_case=lambda: progress.advance(task),
        )
    n_warnings = sum(finding.level == "warning" for finding in found)
    console.print(f"{n_warnings} warnings, {len(found) - n_warnings} notes: {page}", highlight=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _summary(config: SiteConfig, study: StudyConfig, prepared: PreparedStudy) -> Table:
    from common.config.loading import digest

    count = prepared.prepare(0.0, landmarks=prepared.landmarks)
    table = Table(title=f"site {config.site}, study {study.name}", show_header=False)
    table.add_row("study digest (SHA-256)", digest(study))
    table.add_row("cases listed", str(count.n_listed))
    table.add_row("usable", str(count.n_usable))
    for code, n in sorted(count.exclusions.items()):
        table.add_row(f"left out: {code}", str(n))
    table.add_row("features a case", str(len(count.feature_names)))
    return table
