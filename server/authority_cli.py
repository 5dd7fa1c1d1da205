"""`fedrad coordinator`: the commands about who may take part: init, kit, rotate, revoke, sites, trust, enrol, renew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import StateError

if TYPE_CHECKING:
    from server.provisioning import Authority

authority_app = typer.Typer(no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="Folder of the authority, as made by [b]init[/].")]
SiteName = Annotated[str, typer.Argument(help="The hospital's name in studies.")]
Address = Annotated[str, typer.Option(help="host:port under which this hospital reaches the coordinator.")]
Studies = Annotated[list[Path], typer.Option("--study", help="A study that the hospital is asked to agree to.")]
Out = Annotated[Path, typer.Option(help="The kit: a ZIP file to send to the hospital.")]
Request = Annotated[Path, typer.Option(help="The request that the hospital made with [b]fedrad site init[/].")]
Names = Annotated[list[str], typer.Option("--address", help="A name or IP address under which hospitals reach it.")]


@authority_app.command()
def init(home: Annotated[Path, typer.Argument(help="New folder for the authority.")], addresses: Names) -> None:
    """Make the consortium's own certificate authority and the coordinator's certificate.

    The authority's private key stays in HOME. Give every name and address; one that is missing is added with
    [b]renew[/], and no kit changes.
    """
    from server.provisioning import init_authority

    authority = init_authority(home, addresses=addresses)
    console = _console()
    console.print(f"authority made in {home}")
    console.print(f"fingerprint, to be told by telephone: {authority.fingerprint}")
    console.print(
        f"next, for each hospital: fedrad coordinator kit {home} SITE --request SITE.csr --address HOST:PORT "
        "--study STUDY.toml --out SITE-kit.zip",
    )


@authority_app.command()
def kit(
    home: Home,
    site: SiteName,
    address: Address,
    study: Studies,
    out: Out,
    request: Annotated[
        Path | None, typer.Option(help="Its request; leave out for a hospital that has a certificate already.")
    ] = None,
) -> None:
    """Admit a hospital: sign the request that it made, and pack its signed start-up kit."""
    _write_kit(home, site, address, study, out, request, rotate=False)


@authority_app.command()
def rotate(home: Home, site: SiteName, request: Request, address: Address, study: Studies, out: Out) -> None:
    """Replace a hospital's key: its former certificate is refused from now on, and no other hospital notices."""
    _write_kit(home, site, address, study, out, request, rotate=True)


@authority_app.command()
def revoke(home: Home, site: SiteName) -> None:
    """Refuse a hospital from its next request on, also while a study runs. No other hospital notices."""
    _authority(home).revoke(site)
    _console().print(f"{site} is refused from now on; [b]kit[/] with a new request admits it again")


@authority_app.command()
def sites(home: Home) -> None:
    """Who may take part, until when, and which certificates end soon. Exit code 1 where one ends within 60 days."""
    from datetime import UTC, datetime

    authority = _authority(home)
    now = datetime.now(UTC)
    table = Table("hospital", "state", "valid until", "SHA-256 of the certificate")
    for site, member in authority.registry.read().items():
        state = "[red]revoked[/]" if member.revoked else "admitted"
        table.add_row(site, state, f"{member.not_after[:10]}", f"{member.certificate_sha256[:16]}...")
    console = _console()
    console.print(table)
    console.print(f"fingerprint of the authority: {authority.fingerprint}")
    expiring = authority.expiring(now=now)
    for end in expiring:
        console.print(f"[yellow]{end.sentence(now)}[/]")
    raise typer.Exit(1 if expiring else 0)


@authority_app.command()
def trust(
    home: Home, certificate: Annotated[Path, typer.Argument(help="Certificate (PEM) of the hospital's own authority.")]
) -> None:
    """Accept certificates of a hospital's own authority, once the coordinator is restarted; enrol each of them then."""
    _authority(home).trust(_read(certificate))
    _console().print("accepted after the next start of the coordinator; next: fedrad coordinator enrol")


@authority_app.command()
def enrol(
    home: Home,
    site: SiteName,
    certificate: Annotated[
        Path, typer.Argument(help="The hospital's certificate (PEM), of an authority in [b]trust[/].")
    ],
) -> None:
    """Admit a hospital with its own certificate; its kit ([b]kit[/] without a request) brings the rest."""
    _authority(home).enrol(_read(certificate), site=site)
    _console().print(f"{site} is admitted with its own certificate")


@authority_app.command()
def renew(home: Home, addresses: Names) -> None:
    """Make the coordinator's certificate anew, with these names and addresses. Hospitals keep their kits."""
    _authority(home).renew_server(addresses)
    _console().print("renewed; it is shown after the next start of the coordinator")


def _write_kit(
    home: Path, site: str, address: str, studies: list[Path], out: Path, request: Path | None, *, rotate: bool
) -> None:
    from common.files import write_atomic
    from common.kit import open_kit
    from server.kits import make_kit

    if out.exists():
        raise StateError(f"{out} exists already")
    if not out.parent.is_dir():
        raise StateError(f"folder {out.parent} does not exist")
    signed = _read(request) if request else None
    authority = _authority(home)
    content = make_kit(
        authority, site, address=address, studies=studies, request=signed, rotate=rotate, file_name=out.name
    )
    write_atomic(out, content)
    console = _console()
    console.print(f"kit of {site}: {out}; send it by any means, nothing in it is secret")
    for name, study_digest in open_kit(content).manifest.studies.items():
        console.print(f"{name}: SHA-256 {study_digest}")
    console.print(f"fingerprint, to be told by telephone: {authority.fingerprint}")


def _console() -> Console:
    """Without emoji: ``:cd:`` in a fingerprint is no disc."""
    return Console(soft_wrap=True, highlight=False, emoji=False)


def _authority(home: Path) -> Authority:
    from server.provisioning import Authority

    return Authority(home)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
