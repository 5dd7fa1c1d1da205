"""The audit of docs/audit.md from nothing: generated hospitals, a simulated study, and every attack on it.

``python -m simulations.benchmarks.audit OUT`` takes some forty minutes on two cores; what is finished is kept, so it
can be stopped and started again.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from server.checkpoint import write_atomic
from simulations.audit.audit import run_audit
from simulations.audit.plan import AuditPlan
from simulations.audit.protections import PRIVATE, SECURE_SUM
from simulations.hospitals import COHORT_SEED, HOSPITALS, write_hospital
from simulations.simulate import run_simulation

N_CASES = 120
"""Of each of the three hospitals that train."""

PLAN = AuditPlan(what_if=(PRIVATE, SECURE_SUM), shadows=24, victims=6, batches=(1, 2, 4, 8), steps=100, processes=2)


def main(folder: Path) -> None:
    """Write the cohort and the study into ``folder``, and audit it."""
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
    main(Path(sys.argv[1]))
