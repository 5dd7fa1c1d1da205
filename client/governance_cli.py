"""`fedrad site approve`, `stop`, `ledger`, `audit`: how a hospital decides, and looks at what it let out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.site_file import SiteFile, SiteOption, load_site_alone

if TYPE_CHECKING:
    from client.audit_check import LogCheck
    from client.audit_log import AuditLog
    from common.config.site import SiteConfig

governance_app = typer.Typer()


@governance_app.command()
def approve(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file, this hospital's own copy.")],
    site_file: SiteOption = Path("site.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: somebody has read it.")] = False,
) -> None:
    """Say in plain words what a study will ask and what leaves, and sign it. Nothing is answered without that."""
    from client.approval_text import explain_study
    from client.approvals import approve as sign
    from client.site_key import SiteKey
    from common.config.loading import digest, load
    from common.config.study import StudyConfig
    from common.errors import ConfigError

    config, study = load_site_alone(site_file), load(study_file, StudyConfig)
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if config.site not in [entry.name for entry in study.sites]:
        raise ConfigError(str(study_file), [f"has no hospital {config.site}, which {site_file} is for"])
    for chapter in explain_study(study, config):
        console.print(f"[bold]{chapter.heading}[/]")
        for sentence in chapter.sentences:
            console.print(f"  - {escape(sentence)}")
    if not yes:
        typer.confirm("Does this hospital agree?", abort=True)
    log = _log(config)
    sign(log, study, site=config.site, key=SiteKey.of(config))
    console.print(f"approved: {study.name} {digest(study)}")
    listed = [path for path in config.studies if path.exists() and digest(load(path, StudyConfig)) == digest(study)]
    if not listed:
        advice = f"add it to studies in {escape(str(site_file))} and start the site again"
        console.print(f"[yellow]{advice}: only listed studies are answered[/]")


@governance_app.command()
def approvals(site_file: SiteFile = Path("site.toml")) -> None:
    """List the studies that this hospital approved."""
    from client.approvals import Approvals
    from client.site_key import SiteKey

    config = load_site_alone(site_file)
    held = Approvals(config.site, SiteKey.of(config))
    for entry in _check(config).entries:
        held.take(entry)
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    for approval in held.held.values():
        console.print(f"{approval.name}  {approval.study}  {approval.time[:16]}  {approval.by}", markup=False)
    console.print(f"{len(held.held)} approved studies of site {config.site}")


@governance_app.command("revoke-approval")
def revoke_approval(
    study: Annotated[str, typer.Argument(help="Name of the study, or the first digits of its digest.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the audit log.")],
    site_file: SiteOption = Path("site.toml"),
) -> None:
    """Take an approval back; a site that is running refuses the study from its next request on."""
    from client.approvals import Approvals, revoke
    from client.audit_log import AuditFiles, AuditLog
    from client.site_key import SiteKey
    from common.errors import StateError

    config = load_site_alone(site_file)
    key = SiteKey.of(config)
    held = Approvals(config.site, key)
    log = AuditLog(AuditFiles.of(config.state, config.gate.head), key, on_entry=held.take)
    meant = [entry for entry in held.held.values() if entry.name == study or entry.study.startswith(study)]
    if not meant:
        known = ", ".join(f"{entry.name} {entry.study[:12]}" for entry in held.held.values()) or "none"
        raise StateError(f"no approved study {study}; approved: {known}")
    for entry in meant:
        revoke(log, entry.study, reason=reason)
        console = Console(soft_wrap=True, highlight=False, emoji=False)
        console.print(f"revoked: {entry.name} {entry.study}", markup=False)


@governance_app.command()
def stop(
    reason: Annotated[str, typer.Option(help="Why; shown to whoever looks, and kept in the audit log.")],
    site_file: SiteOption = Path("site.toml"),
) -> None:
    """Stop at once: no request is answered and no reply leaves, also of a site that is running, until it resumes."""
    from client.kill_switch import stop as stop_site

    config = load_site_alone(site_file)
    stop_site(config.state, reason=reason)  # first of all: a damaged log must not keep anybody from stopping
    Console(emoji=False).print(f"site {config.site} is stopped; fedrad site resume ends that", highlight=False)
    _log(config).append("stopped", durable=True, reason=reason[:500])


@governance_app.command()
def resume(site_file: SiteOption = Path("site.toml")) -> None:
    """Answer again after a stop."""
    from client.kill_switch import resume as resume_site

    config = load_site_alone(site_file)
    _log(config).append("resumed", durable=True)
    stopped = resume_site(config.state)
    told = "answers again" if stopped else "had not stopped"
    Console(emoji=False).print(f"site {config.site} {told}", highlight=False)


@governance_app.command()
def ledger(site_file: SiteFile = Path("site.toml")) -> None:
    """Show what left this hospital, by study, and what of its privacy budget is spent."""
    from client.audit_check import totals
    from common.data_flow_words import readable_bytes

    config = load_site_alone(site_file)
    found = _check(config)
    table = Table(title=f"site {config.site}: what left")
    for heading in ("study", "asked", "refused", "left", "messages", "bytes", "last"):
        beside_one_another = heading in ("left", "messages", "bytes")  # their lines belong together
        table.add_column(heading, overflow="fold", no_wrap=beside_one_another)
    for key, study in totals(found.entries).items():
        refused = "\n".join(f"{code} {n}" for code, n in sorted(study.refused.items()))
        kinds = sorted(study.messages)
        table.add_row(
            f"{escape(study.name)}\n{key[:12]}".strip(),
            str(study.asked),
            refused,
            "\n".join(kinds),
            "\n".join(str(study.messages[kind]) for kind in kinds),
            "\n".join(readable_bytes(study.sizes[kind]) for kind in kinds),
            study.last[:16],
        )
    console = Console(emoji=False)
    console.print(table, highlight=False)
    for line in _spent_privacy(config):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"{len(found.entries)} entries, head {found.head}", highlight=False, soft_wrap=True)
    if not found.is_whole:
        console.print("[red]this log was tampered with: fedrad site audit says where[/]")
        raise typer.Exit(1)


@governance_app.command()
def audit(
    site_file: SiteFile = Path("site.toml"),
    verify: Annotated[bool, typer.Option("--verify/--list", help="Check every line, or list them instead.")] = True,
    noted: Annotated[str, typer.Option(help="A head that was noted down earlier: the log must still hold it.")] = "",
    begin_anew: Annotated[
        str, typer.Option(metavar="REASON", help="Put a log that was tampered with aside and begin another.")
    ] = "",
) -> None:
    """Check the audit log: chain, signatures, gaps, roll-back, crashes, wrong clocks. Exit code 1 where it was changed.

    Note the head that it prints in a place that this computer cannot write: with it, nobody can put back an older log.
    """
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    config = load_site_alone(site_file)
    if begin_anew:
        _begin_anew(config, begin_anew, console)
        return
    found = _check(config, noted)
    if not verify:
        for entry in found.entries:
            hidden = {"counter", "time", "event", "previous", "signature", "log_key", "site_key", "vouching"}
            shown = " ".join(f"{name}={value}" for name, value in entry.items() if name not in hidden)
            console.print(f"{entry['counter']} {entry['time']} {entry['event']} {shown}", markup=False)
    signs = {"tampered": "[red]TAMPERED[/]", "crash": "[yellow]crash[/]", "clock": "[yellow]clock[/]"}
    for finding in found.findings:
        console.print(f"{signs[finding.level]} line {finding.line}: {escape(finding.sentence)}")
    console.print(f"{len(found.entries)} entries; {'whole' if found.is_whole else 'NOT whole'}")
    console.print(f"head to note down: {found.head}")
    raise typer.Exit(0 if found.is_whole else 1)


def _begin_anew(config: SiteConfig, reason: str, console: Console) -> None:
    from client.audit_log import AuditFiles, begin_anew
    from client.site_key import SiteKey

    aside = begin_anew(AuditFiles.of(config.state, config.gate.head), SiteKey.of(config), reason=reason)
    console.print(f"the former log lies in {aside}; approve the studies again", markup=False)


def _log(config: SiteConfig) -> AuditLog:
    from client.audit_log import AuditFiles, AuditLog
    from client.site_key import SiteKey

    return AuditLog(AuditFiles.of(config.state, config.gate.head), SiteKey.of(config))


def _spent_privacy(config: SiteConfig) -> Iterator[str]:
    """The loss of each study by itself, and of all together against the budget."""
    from client.privacy_budget import PrivacyBudget
    from common.privacy.ledger import epsilon

    budget = PrivacyBudget.of(config)
    reservations = budget.reservations()
    if not reservations:
        yield "differential privacy: no study has spent any"
        return
    for study in dict.fromkeys(reservation.study_digest for reservation in reservations):
        events = [event for entry in reservations if entry.study_digest == study for event in entry.events]
        yield f"differential privacy: study {study[:12]} epsilon {epsilon(events, budget.delta):.3g}"
    limit = f"of {budget.budget_epsilon:g}" if config.gate.budget else "without a limit ([gate.budget])"
    yield f"differential privacy: all studies epsilon {budget.epsilon():.3g} {limit}, delta {budget.delta:g}"


def _check(config: SiteConfig, noted: str = "") -> LogCheck:
    from client.audit_check import check_log, parse_head
    from client.audit_log import AuditFiles
    from client.site_key import SiteKey

    head = parse_head(noted) if noted else None
    return check_log(AuditFiles.of(config.state, config.gate.head), SiteKey.of(config), noted=head)
