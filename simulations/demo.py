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
import socket
from importlib.resources import as_file, files
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from rich.console import Console

from client.identity import make_identity
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
from server.provisioning import init_authority
from server.report import write_report
from server.results import load_results, summary_table, write_tables
from server.study import run_study
from simulations.hospitals import HOSPITALS, write_hospitals
from simulations.in_process import Answers, InProcessFederation
from simulations.parties import Parties, Separation
from simulations.pooled import PooledSite

MARKER = ".fedrad-demo"
POLL_S = 0.1
COORDINATOR = "coordinator"


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
    separation = Separation.here()
    with console.status("generating the hospitals' cases"):
        write_hospitals(out / "hospitals", seed=study.seed)
    n_cases = sum(hospital.n_cases for hospital in HOSPITALS)
    console.print(f"{n_cases} generated cases at {len(HOSPITALS)} hospitals ({monotonic() - started:.0f} s)")
    address = f"127.0.0.1:{_free_port()}"
    _provision(out, study_file, address, separation)
    console.print(f"certificates made; {separation.sentence}")
    with Parties(separation) as parties:
        _start(parties, out, address)
        _require_apart(out, separation)
        _follow(parties, out, console)
    results = load_results([out / COORDINATOR / "run", out / "reference"])
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _site_toml(name: str, address: str) -> str:
    return "\n".join(
        [
            f'site = "{name}"',
            'manifest = "cases.csv"',
            'data = "."',
            'state = "state"',
            "minimum_cases = 5",
            'studies = ["study.toml"]',
            "",
            "[coordinator]",
            f'address = "{address}"',
            'ca = "keys/ca.pem"',
            'node_key = "keys/node.key"',
            'certificate = "keys/node.pem"',
            "",
        ]
    )


def _provision(out: Path, study_file: Path, address: str, separation: Separation) -> None:
    """Certificates as in a consortium: keys made at each hospital, requests signed by the coordinator's authority."""
    authority = init_authority(out / COORDINATOR, addresses=["127.0.0.1", "localhost"])
    for number, hospital in enumerate(HOSPITALS, start=1):
        folder = out / "hospitals" / hospital.name
        request = make_identity(folder / "keys", site=hospital.name)
        certificate = authority.sign(request, site=hospital.name)
        write_atomic(folder / "keys" / "node.pem", certificate)
        write_atomic(folder / "keys" / "ca.pem", authority.ca_certificate)
        write_atomic(folder / "site.toml", _site_toml(hospital.name, address).encode())
        shutil.copyfile(study_file, folder / "study.toml")
        separation.own(folder, number)
    shutil.copyfile(study_file, out / COORDINATOR / "study.toml")
    separation.own(out / COORDINATOR, 0)


def _start(parties: Parties, out: Path, address: str) -> None:
    command = ["coordinator", "run", "study.toml", "--home", ".", "--out", "run", "--listen", address]
    parties.start(COORDINATOR, 0, command, folder=out / COORDINATOR)
    for number, hospital in enumerate(HOSPITALS, start=1):
        folder = out / "hospitals" / hospital.name
        parties.start(hospital.name, number, ["site", "start", "site.toml"], folder=folder)


def _follow(parties: Parties, out: Path, console: Console) -> None:
    """Show the coordinator's journal as it grows, start the reference when all cases are prepared, wait for the end."""
    journal = out / COORDINATOR / "run" / JOURNAL_FILE
    reference: BaseProcess | None = None
    with StudyProgress(console) as progress:
        position = 0
        while True:
            ended = parties.ended()
            lines, position = _new_lines(journal, position)
            for line in lines:
                progress.show(line)
                if reference is None and line["event"] == "table":
                    reference = _start_reference(out)
            if COORDINATOR in ended:
                break
            _require_running(parties, out, ended)
            sleep(POLL_S)
        _require_running(parties, out, {name: code for name, code in parties.ended().items() if code})
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


def _require_running(parties: Parties, out: Path, ended: dict[str, int]) -> None:
    for name in ended:
        if name == COORDINATOR and ended[name] == 0:
            continue
        folder = out / COORDINATOR if name == COORDINATOR else out / "hospitals" / name
        tail = (folder / "output.log").read_text(errors="replace").strip().splitlines()[-5:]
        raise FederationError(f"{name} ended with code {ended[name]}: {' | '.join(tail)}")


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
    return Site(config.model_copy(update={"state": state}), [study])


def _require_apart(out: Path, separation: Separation) -> None:
    """Try to enter every hospital's folder as the coordinator, and stop the demo if that works."""
    folders = [str(out / "hospitals" / hospital.name) for hospital in HOSPITALS]
    opened = separation.readable_for(0, folders)
    if opened and separation.kind != "folders":
        raise FederationError(f"the coordinator can read {', '.join(opened)}")
