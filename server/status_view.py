"""`fedrad coordinator status`: a study's status as a person reads it in a terminal."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from common.data_flow_words import readable_bytes
from server.status import StudyStatus


def status_view(status: StudyStatus) -> Lines:
    """Phase, sites, who is awaited, how far each model is."""
    head = Text.assemble(
        ("study ", "bold"),
        f"{status.name} {status.digest[:12]}   ",
        (status.state, "yellow" if status.state in ("paused", "aborted", "failed") else "green"),
        ("   phase ", "bold"),
        status.phase,
    )
    if status.round_number:
        head.append(f", round {status.round_number}")
    if status.since:
        head.append(f" since {_clock(status.since)}")
    if status.asked:
        head.append(f"\nawaited: {', '.join(status.asked)}")
    sites = Table("site", "last answer", "waiting for it", "received", "sent", "refusals", title="sites")
    for name, site in sorted(status.sites.items()):
        down, up = readable_bytes(site.bytes_down), readable_bytes(site.bytes_up)
        refusals = ", ".join(f"{code} {n}" for code, n in sorted(site.codes.items())) or "-"
        awaited = site.awaited or ("asked" if name in status.asked else "-")
        sites.add_row(escape(name), _clock(site.last_answer), awaited, down, up, refusals)
    models = Table("model", "trained by", "fold", "round", "training loss", title="training")
    for (model, course, fold), (done, total, loss) in sorted(status.rounds.items()):
        models.add_row(escape(model), escape(course), str(fold + 1), f"{done} of {total}", f"{loss:.4f}")
    return Lines(head, sites, models)


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S") if moment else "-"
