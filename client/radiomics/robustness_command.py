"""``fedrad radiomics robustness``: what is typed and what is shown; the work is in ``robustness``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.radiomics.cohort import read_cases
from client.radiomics.robustness import GRADES, RobustnessResult, grade, measure_cohort, write_reliability
from client.radiomics.settings import settings_from
from common.config.loading import load
from common.config.robustness import RobustnessConfig
from common.errors import CaseError


def robustness(
    cases: Annotated[Path, typer.Argument(help="CSV manifest (case_id,image,roi), or a folder of pairs.")],
    preset: Annotated[str, typer.Option(help="Name of a preset, or a TOML file.")],
    out: Annotated[Path, typer.Option(help="CSV that receives one row a feature.")],
    perturbed_by: Annotated[Path | None, typer.Option(help="TOML with the perturbations; default: 8 repeats.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes the noise.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Cases measured at the same time.")] = 1,
) -> None:
    """Intraclass correlation of every feature under rotation, translation, noise, and growth or erosion of the ROI.

    Exit code 1 where a case could not be measured; its reason is printed.
    """
    console = Console(emoji=False)
    listed = read_cases(cases)
    settings = settings_from(preset)
    config = load(perturbed_by, RobustnessConfig) if perturbed_by else RobustnessConfig()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{config.n_perturbations} repeats a case", total=len(listed))
        result = measure_cohort(
            listed, settings, config, seed=seed, processes=processes, on_case=lambda: progress.advance(task)
        )
    for fault in result.faults:
        console.print(f"[yellow]{fault.code}[/]  {fault}", highlight=False, soft_wrap=True)
    if result.n_cases < 2:
        raise CaseError("all", f"an ICC needs at least 2 cases, {result.n_cases} could be measured")
    write_reliability(result, config, out)
    console.print(_summary(result, config))
    console.print(f"{out}", highlight=False)
    raise typer.Exit(1 if result.faults else 0)


def _summary(result: RobustnessResult, config: RobustnessConfig) -> Table:
    found = result.reliability
    counts = Counter(grade(f.lower) for f in found.features)
    title = f"ICC({config.model}) over {result.n_cases} cases x {config.n_perturbations} repeats"
    table = Table("lower end of the interval", "features", title=title)
    for word, least in GRADES:
        table.add_row(f"{word}" + (f" (at least {least:.2f})" if np.isfinite(least) else ""), str(counts[word]))
    table.add_row("undefined", str(len(found.undefined)))
    kept = len(found.keep(minimum=config.minimum_icc, decides=config.decides))
    table.add_row(f"kept: {config.decides} at least {config.minimum_icc:g}", str(kept))
    return table
