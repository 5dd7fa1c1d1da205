"""A whole study over the network against the same training steps in one process.

``python -m simulations.benchmarks.rounds`` (part of ``make bench-deploy``): four sites with 96 training volumes of 32^3
each, a GroupNorm network of 0.9 million parameters, batches of 8, five rounds, one torch thread a process. The system
is the one that hospitals run: a coordinator and four site processes, mutual TLS, files, gate, logs, checkpoints.

The *limit* is the same training in one process of plain torch (`simulations.benchmarks.one_process`). It is measured
again with what a site has beside that, an allocator told to keep buffers and an Adam of few lines: "tuned".

CPU is that of whole process trees, from ``wait4``; a stage's is read from the processes while they run. Each repetition
measures all, limits first; ratios are of one repetition. Before the first, Python's byte code is written as an
installation leaves it: where the environment forbids that, each process would compile the source anew.
"""

from __future__ import annotations

import argparse
import compileall
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import psutil

from common.errors import FederationError
from server.opening import JOURNAL_FILE
from simulations.benchmarks.one_process import model_bytes
from simulations.benchmarks.rounds_cohort import SITES, study_text, write_cases
from simulations.consortium import COORDINATOR, Consortium, free_port
from simulations.parties import Parties, Separation

PACKAGES = ("client", "common", "server", "simulations")
DEADLINE_S = 300.0
POLL_S = 0.02

STAGES = ("start", "prepare", "first round", "warm rounds", "test, report, end")


@dataclass(frozen=True)
class Moment:
    """What had passed when the journal told of an event.

    Parameters
    ----------
    line : mapping
        The journal's line.
    wall_s : float
        Since the processes were started.
    coordinator_s, sites_s : float
        CPU of the coordinator, and of all sites.
    """

    line: Mapping[str, Any]
    wall_s: float
    coordinator_s: float
    sites_s: float

    @property
    def cpu_s(self) -> float:
        return self.coordinator_s + self.sites_s


@dataclass(frozen=True)
class Run:
    """One run of the system.

    Parameters
    ----------
    cpu_s : float
        Of all processes, from start to end.
    moments : tuple of Moment
        One for each line of the journal.
    """

    cpu_s: float
    moments: tuple[Moment, ...]

    @property
    def rounds(self) -> tuple[Moment, ...]:
        """The ends of the rounds."""
        return tuple(moment for moment in self.moments if moment.line["event"] == "round")

    @property
    def warm_round_s(self) -> tuple[float, float]:
        """Wall and CPU seconds of a round after the first."""
        pairs = list(pairwise(self.rounds))
        return median(b.wall_s - a.wall_s for a, b in pairs), median(b.cpu_s - a.cpu_s for a, b in pairs)

    @property
    def cold_start_s(self) -> float:
        """From the start of all processes to the first training."""
        return self.rounds[0].wall_s - self.warm_round_s[0]

    @property
    def bytes_per_model(self) -> float:
        """What the application sent and received, a site and round after the first, over the bytes of the model."""
        answers = [m.line for m in self.moments if m.line["event"] == "answer" and m.line["phase"].startswith("train")]
        warm = answers[len(SITES) :]
        moved: float = sum(line["bytes_down"] + line["bytes_up"] for line in warm)
        return moved / len(warm) / model_bytes()

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """CPU of the coordinator and of all sites in each of `STAGES`; what the end costs the sites is not told apart
        from the coordinator's report.
        """
        ends = [self._first("hello"), self._first("train"), self.rounds[0], self.rounds[-1]]
        seconds = [(0.0, 0.0), *((moment.coordinator_s, moment.sites_s) for moment in ends)]
        parts = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(seconds)]
        return (*parts, (self.cpu_s - sum(seconds[-1]), 0.0))

    def _first(self, phase: str) -> Moment:
        asked = (m for m in self.moments if m.line["event"] == "asked" and m.line["phase"].startswith(phase))
        return next(asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a repetition, and medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compression", default="", help="such as 'kind = \"int8\"'")
    chosen = parser.parse_args(arguments)
    for package in PACKAGES:
        compileall.compile_dir(Path(__file__).parents[2] / package, quiet=1)
    rows: list[dict[str, float]] = []
    stages: list[tuple[tuple[float, float], ...]] = []
    for number in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            row, run = _compare(Path(folder), chosen.compression)
        if not number:
            print("        " + "   ".join(row))
        rows.append(row)
        stages.append(run.stages)
        _print_row(row)
    _print_row({key: median(row[key] for row in rows) for key in rows[0]}, "median")
    print("\nCPU s, medians       coordinator   four sites")
    for stage, parts in zip(STAGES, zip(*stages, strict=True), strict=True):
        coordinator, sites = (median(part[i] for part in parts) for i in range(2))
        print(f"{stage:20s}   {coordinator:9.2f}   {sites:10.2f}")


def _compare(folder: Path, compression: str) -> tuple[dict[str, float], Run]:
    (folder / "study.toml").write_text(study_text(compression))
    for number, name in enumerate(SITES):
        write_cases(folder / "hospitals" / name, seed=number)
    limit_cpu, limit_round = _limit()
    _, tuned_round = _limit("--tuned")
    run = run_system(folder)
    wall, cpu = run.warm_round_s
    row = {
        "limit CPU s": limit_cpu,
        "its round": limit_round,
        "tuned": tuned_round,
        "CPU / limit": run.cpu_s / limit_cpu,
        "round CPU / limit": cpu / limit_round,
        "/ tuned": cpu / tuned_round,
        "round wall s": wall,
        "wall / limit": wall / limit_round,
        "cold start s": run.cold_start_s,
        "bytes / model": run.bytes_per_model,
    }
    return row, run


def _print_row(row: Mapping[str, float], name: str = "") -> None:
    print(f"{name:8s}" + "   ".join(f"{value:{len(key)}.3f}" for key, value in row.items()), flush=True)


def _limit(*arguments: str) -> tuple[float, float]:
    """CPU seconds of one process with the same training, and of its warm round."""
    before = _children_cpu()
    command = [sys.executable, "-m", "simulations.benchmarks.one_process", *arguments]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return _children_cpu() - before, float(told)


def run_system(folder: Path) -> Run:
    """Coordinator and hospitals as processes; what they cost."""
    consortium = Consortium(folder, SITES, f"127.0.0.1:{free_port()}", Separation("folders"))
    consortium.coordinator.mkdir()
    consortium.provision(folder / "study.toml", minimum_cases=5)
    before, started = _children_cpu(), perf_counter()
    moments: list[Moment] = []
    position = 0
    journal = consortium.run_folder / JOURNAL_FILE
    with Parties(consortium.separation) as parties:
        consortium.start_coordinator(parties)
        for name in SITES:
            consortium.start_hospital(parties, name)
        trees = {name: psutil.Process(process.pid) for name, process in parties.running.items()}
        while COORDINATOR not in (ended := parties.ended()):
            lines, position = _new_lines(journal, position)
            if lines:
                passed = perf_counter() - started
                cpu = {name: _cpu(tree) for name, tree in trees.items()}
                own = cpu.pop(COORDINATOR)
                moments += [Moment(line, passed, own, sum(cpu.values())) for line in lines]
            consortium.require_running(ended)
            if perf_counter() - started > DEADLINE_S:
                raise FederationError(f"not finished after {DEADLINE_S:g} s")
            sleep(POLL_S)
        consortium.require_running(parties.ended())
    return Run(_children_cpu() - before, tuple(moments))


def _new_lines(journal: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines after ``position``, and where they end."""
    if not journal.exists() or journal.stat().st_size <= position:
        return [], position
    with journal.open("rb") as file:
        file.seek(position)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], position + len(whole)


def _cpu(tree: psutil.Process) -> float:
    total = 0.0
    try:
        for process in (tree, *tree.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.NoSuchProcess:
        return total
    return total


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
