"""The audit of docs/audit.md from nothing: generated hospitals, a simulated study, and every attack on it.

``python -m simulations.benchmarks.audit OUT`` keeps what is finished, so it can be stopped and started again. With
``--write`` the table and the pictures of the page are replaced.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from server.checkpoint import write_atomic
from simulations.audit.audit import FOLDER, run_audit
from simulations.audit.findings import MEASURES
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import PRIVATE, PROTECTIONS, SECURE_SUM
from simulations.audit.report import TITLES
from simulations.hospitals import COHORT_SEED, HOSPITALS, write_hospital
from simulations.simulate import run_simulation

N_CASES = 120
"""Of each of the three hospitals that train."""

PLAN = AuditPlan(what_if=(PRIVATE, SECURE_SUM), shadows=24, victims=6, batches=(1, 2, 4, 8), steps=100, processes=2)


BEGIN, END = "<!-- bench-audit: begin -->", "<!-- bench-audit: end -->"
PICTURES = ("audit-inversion-cnn.png", "audit-membership-mlp.png", "audit-membership-cnn.png")
"""In ``docs/figures``; in the audit's own folder without the first word."""


def main() -> None:
    """Write the cohort and the study into a folder, and audit it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="a Markdown page whose table is replaced, pictures beside it")
    chosen = parser.parse_args()
    audit(chosen.folder)
    if chosen.write is not None:
        write_page(chosen.write, chosen.folder / "out" / FOLDER)


def audit(folder: Path) -> None:
    """Run the study where it is not there yet, and attack it."""
    console = Console(emoji=False)
    cohort, out = folder / "cohort", folder / "out"
    if not (cohort / "cases.csv").exists():
        write_cohort(cohort)
    if not (out / "report.html").exists():
        with as_file(files("configs") / "audit" / "study.toml") as study:
            run_simulation(
                study,
                cohort / "cases.csv",
                cohort,
                out,
                resume=out.exists(),
                baselines=False,
                threads=1,
                processes=2,
                console=console,
            )
    run_audit(out, cohort, PLAN, console=console)


def write_page(page: Path, found: Path) -> None:
    """Put the figures of ``audit.json`` between the page's marks, and its pictures into ``figures``."""
    findings = json.loads((found / "audit.json").read_text())["findings"]
    text = page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    write_atomic(page, f"{before}\n\n{markdown(findings)}\n\n{after}".encode())
    for picture in PICTURES:
        shutil.copyfile(found / picture.removeprefix("audit-"), page.parent / "figures" / picture)


def markdown(findings: Sequence[Mapping[str, Any]]) -> str:
    """The findings as a Markdown table, a row a measured figure."""
    titles = [TITLES.get(protection, protection) for protection in PROTECTIONS]
    lines = [f"| attack on | measure | {' | '.join(titles)} | by chance |", "|---" * (len(titles) + 3) + "|"]
    for finding in findings:
        cells = [_shown(finding["cells"][protection]) for protection in PROTECTIONS]
        what = f"{finding['attack']}: {finding['target']} | {MEASURES[finding['measure']]}"
        lines.append(f"| {what} | {' | '.join(cells)} | {finding['chance']} |")
    return "\n".join(lines)


def _shown(cell: Mapping[str, Any]) -> str:
    """Value, interval and note of a cell; the note alone where nothing was measured."""
    if cell["value"] is None:
        return str(cell["note"])
    interval = "" if cell["low"] is None or cell["high"] is None else f" ({cell['low']:.3f} to {cell['high']:.3f})"
    return f"**{cell['value']:.3f}**{interval}" + (f"; {cell['note']}" if cell["note"] else "")


def write_cohort(folder: Path) -> None:
    """Images of all hospitals below ``images/HOSPITAL``, and one CSV that names the hospital of each case."""
    rows: list[dict[str, str]] = []
    for hospital in HOSPITALS[:3]:
        home = folder / hospital.name
        write_hospital(replace(hospital, n_cases=N_CASES), home, seed=COHORT_SEED)
        (folder / "images").mkdir(exist_ok=True)
        for case in sorted((home / "images").iterdir()):
            case.rename(folder / "images" / case.name)
        with (home / "cases.csv").open(newline="") as file:
            rows += [row | {"site": hospital.name} for row in csv.DictReader(file)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(folder / "cases.csv", text.getvalue().encode())


if __name__ == "__main__":
    main()
