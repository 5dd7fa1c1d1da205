"""What stands behind ``fedrad simulate``: open the folder, run, report, print."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from server.opening import open_run
from server.progress import StudyProgress
from server.report import write_report
from server.results import load_results, summary_table, write_tables
from simulations.run import Cohort, simulate


def run_simulation(
    study_file: Path,
    cases: Path,
    data: Path,
    out: Path,
    *,
    resume: bool,
    baselines: bool,
    threads: int,
    processes: int,
    console: Console,
) -> None:
    """Simulate a study and write its tables and report into ``out``."""
    progress = StudyProgress(console)
    run = open_run(study_file, out, resume=resume, listener=progress.show)
    with progress:
        simulate(
            run.study,
            Cohort(cases, data.resolve()),
            out=out,
            journal=run.journal,
            threads=threads,
            processes=processes,
            baselines=baselines,
        )
    results = load_results([out])
    write_tables(results, out)
    write_report(results, out / "report.html")
    console.print(summary_table(results))
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)
