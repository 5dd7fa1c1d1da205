"""The audit's report: a table in the terminal, ``audit.json``, and one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from rich.table import Table

from common.config.study import StudyConfig
from common.version import VERSION
from server.checkpoint import write_atomic
from simulations.audit.findings import MEASURES, AuditResult, breaches
from simulations.audit.protections import NONE, PROTECTIONS, Protection

TITLES: Mapping[Protection, str] = {NONE: "no protection"}


@dataclass(frozen=True)
class Picture:
    """A picture of the audit and what it shows, in words."""

    file: str
    caption: str


def terminal_table(result: AuditResult) -> Table:
    """All findings for the terminal."""
    table = Table(title=f"{result.study}: privacy audit", show_lines=True)
    table.add_column("attack, target, measure")
    for protection in PROTECTIONS:
        table.add_column(TITLES.get(protection, protection))
    table.add_column("chance")
    for finding in result.findings:
        what = f"{finding.attack}\n{finding.target}\n{MEASURES[finding.measure]}"
        table.add_row(what, *(finding.cells[protection].short for protection in PROTECTIONS), finding.chance)
    return table


def write_report(study: StudyConfig, result: AuditResult, folder: Path, pictures: Sequence[Picture]) -> None:
    """Write ``audit.json`` and ``audit.html`` beside the pictures in ``folder``."""
    gate = study.privacy.release_gate
    refused = breaches(gate, result) if gate is not None else ()
    content = {**result.to_json(), "release_gate": gate.limits if gate else None, "breaches": list(refused)}
    write_atomic(folder / "audit.json", json.dumps(content, indent=1).encode())
    write_atomic(folder / "audit.html", _page(study, result, folder, pictures, refused).encode())


def _page(
    study: StudyConfig, result: AuditResult, folder: Path, pictures: Sequence[Picture], refused: Sequence[str]
) -> str:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("simulations.audit"), PackageLoader("server")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html.j2").render(
        study=study,
        result=result,
        protections=PROTECTIONS,
        titles={protection: TITLES.get(protection, protection) for protection in PROTECTIONS},
        measures=MEASURES,
        gate=study.privacy.release_gate,
        breaches=refused,
        pictures=[(picture, _data_url(folder / picture.file)) for picture in pictures],
        version=VERSION,
        written=datetime.now(UTC),
    )


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
