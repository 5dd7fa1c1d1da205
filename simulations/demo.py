"""`fedrad demo`: a federated study with real processes, certificates and files, on one machine, in a few minutes.

Folder layout::

    OUT/hospitals/<name>/     site.toml, cases.csv, images/, keys/, state/     the hospital's own
    OUT/coordinator/          authority, keys, run/                            the coordinator's own
    OUT/reference/            the pooled course, which no real study could run
    OUT/report.html
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from importlib.resources import as_file, files
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console

from client.site import Site
from common.config.loading import digest, load
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import FederationError
from common.journal import JsonLines
from server.checkpoint import CheckpointStore, write_atomic
from server.courses import POOLED, pooled_group
from server.opening import JOURNAL_FILE, empty_former_run
from server.progress import StudyProgress
from server.report import write_report
from server.results import load_results, summary_table, write_tables
from server.study import run_study
from simulations.consortium import COORDINATOR, Consortium, free_port
from simulations.hospitals import COHORT_SEED, HOSPITALS, write_hospitals
from simulations.in_process import Answers, InProcessFederation
from simulations.parties import Parties, Separation
from simulations.pooled import PooledSite

MARKER = ".fedrad-demo"
POLL_S = 0.1


def run_demo(out: Path, *, overwrite: bool, console: Console) -> None:
    """Run the whole demo and print its table.

    Raises
    ------
    StateError
        If ``out`` has content that no former demo made, or a former demo's without ``overwrite``.
    FederationError
        If a party ends before the study does; its last lines are in the sentence.
    """
    started = monotonic()
    out = out.resolve()
    if overwrite:
        empty_former_run(out, MARKER)
    study_file = _lay_out(out)
    study = load(study_file, StudyConfig)
    with console.status("generating the hospitals' cases"):
        write_hospitals(out / "hospitals", seed=COHORT_SEED)
    n_cases = sum(hospital.n_cases for hospital in HOSPITALS)
    console.print(f"{n_cases} generated cases at {len(HOSPITALS)} hospitals ({monotonic() - started:.0f} s)")
    names = tuple(hospital.name for hospital in HOSPITALS)
    consortium = Consortium(out, names, f"127.0.0.1:{free_port()}", Separation.here())
    consortium.provision(study_file, minimum_cases=study.privacy.minimum_cases)
    consortium.require_apart()
    console.print(f"certificates made; {consortium.separation.sentence}")
    with Parties(consortium.separation) as parties:
        consortium.start_coordinator(parties)
        for name in names:
            consortium.start_hospital(parties, name)
        _follow(parties, consortium, console)
    results = load_results([consortium.run_folder, out / "reference"])
    write_tables(results, out)
    write_report(results, out / "report.html")
    console.print(summary_table(results))
    console.print(f"report: {out / 'report.html'}  ({monotonic() - started:.0f} s)", highlight=False, soft_wrap=True)


def _lay_out(out: Path) -> Path:
    """Make the folders; the study file that all parties get a copy of."""
    for folder in (out, out / "hospitals", out / COORDINATOR, out / "reference"):
        folder.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    study_file = out / "study.toml"
    with as_file(files("configs") / "demo" / "study.toml") as source:
        shutil.copyfile(source, study_file)
    return study_file


def _follow(parties: Parties, consortium: Consortium, console: Console) -> None:
    """Show the coordinator's journal as it grows, start the reference when all cases are prepared, wait for the end."""
    journal = consortium.run_folder / JOURNAL_FILE
    reference: BaseProcess | None = None
    position = 0
    with StudyProgress(console) as progress:
        while True:
            ended = parties.ended()
            lines, position = _new_lines(journal, position)
            for line in lines:
                progress.show(line)
                if reference is None and line["event"] == "table":
                    reference = _start_reference(consortium.folder)
            consortium.require_running(ended)
            if COORDINATOR in ended:
                break
            sleep(POLL_S)
    if reference is not None:
        with console.status("waiting for the pooled reference"):
            reference.join()
        if reference.exitcode:
            raise FederationError(f"the pooled reference ended with code {reference.exitcode}")


def _new_lines(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines of a growing file from ``position`` on, and the position after them."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], position + len(whole)


def _start_reference(out: Path) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=run_reference, args=(out,), daemon=True)
    process.start()
    return process


def run_reference(out: Path) -> None:
    """The pooled course on the cases of all hospitals, which no real study could see together."""
    study = load(out / "study.toml", StudyConfig)
    folder = out / "reference"
    write_atomic(folder / "study.toml", (out / "study.toml").read_bytes())
    sites = {hospital.name: _copied_site(out, hospital.name, study) for hospital in HOSPITALS}
    members: dict[str, Answers] = dict(sites)
    members[POOLED] = PooledSite(study, [sites[name] for name in study.training_sites])
    store = CheckpointStore(folder / "checkpoints", digest(study))
    with InProcessFederation(members) as federation:
        run_study(study, federation, groups=[pooled_group()], store=store, journal=JsonLines(folder / JOURNAL_FILE))


def _copied_site(out: Path, name: str, study: StudyConfig) -> Site:
    """A hospital's cases with a state of its own, filled with what the hospital has prepared already."""
    home = out / "hospitals" / name
    config = load(home / "site.toml", SiteConfig).relative_to(home)
    state = out / "reference" / "sites" / name
    shutil.copytree(config.state / "cache", state / "cache")
    # nobody outside can ask this one: no coordinator, and so no approval
    return Site(config.model_copy(update={"state": state, "coordinator": None}), [study], secret="")
