"""The study as a Flower `ServerApp`, for consortia that operate a SuperLink already.

``docs/stock_flower.md`` says which protection is lost there. The study itself is the same; `server.grid_federation`
carries it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.loading import digest
from common.errors import ConfigError
from server.grid_federation import GridFederation

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator, unused-ignore]  # flwr is read as Any
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the study that the run's configuration names."""
    run_over_grid(grid, context.run_config)


def run_over_grid(grid: Grid, run_config: Mapping[str, object]) -> None:
    """Run the study file ``study`` and write checkpoints, journal and report into the folder ``out``.

    A folder that holds a run of this study is gone on with from its last complete round.

    Raises
    ------
    ConfigError
        If the configuration names no study or no folder.
    FederationError
        Naming the hospitals that no node speaks for, and all of `server.study.run_study`.
    StateError
        If another run is at work in ``out``, and all of `server.opening.open_run`.
    """
    from server.courses import groups_of
    from server.opening import alone_in, open_run
    from server.report import write_report
    from server.results import load_results, write_tables
    from server.study import run_study

    missing = [name for name in ("study", "out") if not run_config.get(name)]
    if missing:
        raise ConfigError("run config", [f"{name}: missing, give --run-config '{name}=\"...\"'" for name in missing])
    out = Path(str(run_config["out"]))
    opened = open_run(Path(str(run_config["study"])), out, resume=True)

    def note(text: str) -> None:
        opened.journal.write("note", text=text)

    with alone_in(out):
        federation = GridFederation(grid, digest(opened.study), on_event=note)
        federation.require(
            [site.name for site in opened.study.sites], deadline_s=opened.study.federated.join_deadline_s
        )
        run_study(opened.study, federation, groups=groups_of(opened.study), store=opened.store, journal=opened.journal)
        results = load_results([out])
        write_tables(results, out)
        write_report(results, out / "report.html")
