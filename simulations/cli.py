"""The `fedrad` command: hospital, coordinator, simulation and demo under one name.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from client.cli import site_app
from client.radiomics.cli import app as radiomics_app
from common.errors import FedradError, exit_code
from server.cli import coordinator_app

app = typer.Typer(
    name="fedrad",
    help="Hospitals train radiomics and 3D deep-learning models together; no image, feature row or identity leaves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(site_app, name="site")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(radiomics_app, name="radiomics")

EXIT_FAILED, EXIT_CONFIG, EXIT_INTERRUPTED = 1, 2, 130


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder that receives everything the demo writes.")] = Path("demo-out"),
    overwrite: Annotated[bool, typer.Option(help="Empty the folder first if it is a former demo's.")] = False,
) -> None:
    """Three hospitals, an external one and a coordinator, as real processes on this machine, in a few minutes.

    Generates CT nodules with another scanner at each hospital, sets up certificates, starts every party as a process of
    its own, trains logistic radiomics, a 3D CNN and their fusion over Flower and TLS, and writes a report.
    """
    from simulations.demo import run_demo

    run_demo(out, overwrite=overwrite, console=Console(emoji=False))


@app.command()
def simulate(
    study: Annotated[Path, typer.Argument(help="The study file, as all parties would agree to it.")],
    cases: Annotated[Path, typer.Option(help="CSV with one row a case and a column that names its site.")],
    data: Annotated[Path, typer.Option(help="Folder that the study's image patterns start from.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, tables and the report.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last complete round found in OUT.")] = False,
    baselines: Annotated[bool, typer.Option(help="Also train each site alone, and all cases pooled.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Sites that train at the same time.")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="Cases that are prepared at the same time.")] = 2,
) -> None:
    """Run a whole study in one process: the same code as at hospitals, sites as objects.

    [dim]fedrad simulate configs/sarcoma/study.toml --cases cases.csv --data images --out out[/]
    """
    from simulations.simulate import run_simulation

    run_simulation(
        study,
        cases,
        data,
        out,
        resume=resume,
        baselines=baselines,
        threads=threads,
        processes=processes,
        console=Console(emoji=False),
    )


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def supervise(
    command: Annotated[list[str], typer.Argument(help="What to run, after --.")],
    log: Annotated[Path | None, typer.Option(help="JSON lines go here instead of standard error.")] = None,
    most_restarts: Annotated[int, typer.Option(min=0, help="Restarts within the window before giving up.")] = 20,
    window_s: Annotated[float, typer.Option(min=1, help="Seconds after which a death is forgotten.")] = 600.0,
    longest_delay_s: Annotated[float, typer.Option(min=0.1, help="Longest pause before a restart.")] = 30.0,
) -> None:
    """Run a command and start it again whenever it dies: for machines without systemd.

    [dim]fedrad supervise -- fedrad site start site.toml[/]
    """
    from common.journal import JsonLines, line_of
    from common.supervision import RestartPolicy, supervise

    def tell(event: str, values: dict[str, str | int | float]) -> None:
        if log is None:
            sys.stderr.write(line_of(event, values))
            sys.stderr.flush()
        else:
            JsonLines(log).write(event, **values)

    policy = RestartPolicy(
        most_restarts=most_restarts,
        window_s=window_s,
        longest_delay_s=longest_delay_s,
        final_codes=frozenset({EXIT_CONFIG}),
    )
    raise typer.Exit(supervise(command, policy, tell).code)


@app.command()
def audit(
    out: Annotated[Path, typer.Argument(help="Folder of a finished fedrad simulate run.")],
    data: Annotated[Path, typer.Option(help="Folder that the study's image patterns start from.")],
    attacks: Annotated[
        str, typer.Option(help="Comma-separated: membership, inversion, statistics, canaries.")
    ] = "membership,inversion,statistics,canaries",
    models: Annotated[str, typer.Option(help="Comma-separated names of trained models; empty: all.")] = "",
    what_if: Annotated[
        str, typer.Option(help="Also measure under: differential-privacy, secure-aggregation (comma-separated).")
    ] = "",
    shadows: Annotated[int, typer.Option(min=8, help="Shadow models for each model and protection.")] = 32,
    victims: Annotated[int, typer.Option(min=1, help="Updates that are inverted for each batch size.")] = 6,
    batches: Annotated[str, typer.Option(help="Cases of an inverted update, comma-separated.")] = "1,4,8",
    steps: Annotated[int, typer.Option(min=1, help="Optimisation steps of one inversion.")] = 400,
    canary_trials: Annotated[int, typer.Option(min=100, help="Trainings with and without the canary.")] = 1000,
    attribute: Annotated[
        str, typer.Option(help="COLUMN=VALUE of the manifest whose share is inferred; empty: the outcome's last class.")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, help="Attacks that run at the same time.")] = 2,
) -> None:
    """Attack what a simulated study lets out: membership, inversion, statistics, canaries; with a release gate.

    [dim]fedrad audit out --data images --what-if secure-aggregation[/]
    """
    from simulations.audit.audit import run_audit
    from simulations.audit.plan import read_plan

    plan = read_plan(
        attacks=attacks,
        models=models,
        what_if=what_if,
        shadows=shadows,
        victims=victims,
        batches=batches,
        steps=steps,
        canary_trials=canary_trials,
        attribute=attribute,
        processes=processes,
    )
    if not run_audit(out, data, plan, console=Console(emoji=False)):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point: errors that fedrad raises on purpose are sentences on standard error, with an exit code a kind."""
    try:
        app()
    except FedradError as error:
        Console(stderr=True, soft_wrap=True, emoji=False).print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        Console(stderr=True, emoji=False).print("interrupted")
        sys.exit(EXIT_INTERRUPTED)
