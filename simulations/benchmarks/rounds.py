"""A whole study over the network against the same training steps in one process.

``python -m simulations.benchmarks.rounds`` (part of ``make bench-deploy``): four sites with 96 training volumes of 32^3
each, a GroupNorm network of 0.9 million parameters, batches of 8, five rounds, one torch thread a process. The system
is the one that hospitals run: a coordinator and four site processes, mutual TLS, files, gate, logs, checkpoints. The
*limit* is the same training in one process that has its data in memory and sends nothing. CPU is that of whole process
trees, from ``wait4``; a round's is read from the processes while they run. Each repetition measures both, limit first.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil

from client.ingest.nifti import write_volume
from common.errors import FederationError
from common.volume import Volume
from server.opening import JOURNAL_FILE
from simulations.consortium import COORDINATOR, Consortium, free_port
from simulations.parties import Parties, Separation

SITES = ("east", "north", "south", "west")
N_LISTED, N_TRAIN, SIDE = 120, 96, 32
ROUNDS = 5
CHANNELS = (16, 32, 64, 128)
DEADLINE_S = 300.0
POLL_S = 0.01

STUDY = """name = "rounds"
title = "Four sites, five rounds"
seed = 1

[outcome]
kind = "classification"
column = "malignant"
values = ["0", "1"]
names = ["benign", "malignant"]

[[images]]
name = "ct"
modality = "CT"
image = "images/{case_id}/ct.nii.gz"
roi = "images/{case_id}/roi.nii.gz"

[patch]
images = ["ct"]
spacing_mm = [1.0, 1.0, 1.0]
shape = [32, 32, 32]
window = [-200, 200]

[split]
kind = "holdout"
test_fraction = 0.2

[[models]]
name = "cnn"
"""


@dataclass(frozen=True)
class Run:
    """One run of the system.

    Parameters
    ----------
    cpu_s : float
        Of all processes, from start to end.
    round_wall_s, round_cpu_s : tuple of float
        Of the rounds after the first.
    first_round_s : float
        From the start of all processes to the end of the first round; less one warm round it is the cold start.
    bytes_per_model : float
        What the application sent and received, a site and round after the first, over the bytes of the model.
    """

    cpu_s: float
    round_wall_s: tuple[float, ...]
    round_cpu_s: tuple[float, ...]
    first_round_s: float
    bytes_per_model: float

    @property
    def cold_start_s(self) -> float:
        return self.first_round_s - median(self.round_wall_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a repetition, and medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compression", default="", help="such as 'kind = \"int8\"'")
    parser.add_argument("--limit", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.limit:
        train_in_one_process(chosen.limit)
        return
    rows: list[dict[str, float]] = []
    print(
        "   limit CPU s   its round   | CPU / limit   round CPU / limit   round wall s   cold start s   bytes / model"
    )
    for _ in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_compare(Path(folder), chosen.compression))
        _print_row(rows[-1])
    _print_row({key: median(row[key] for row in rows) for key in rows[0]}, "median")


def _compare(folder: Path, compression: str) -> dict[str, float]:
    (folder / "study.toml").write_text(_study(compression))
    for number, name in enumerate(SITES):
        _write_cases(folder / "hospitals" / name, seed=number)
    limit_cpu, limit_round = _limit(folder)
    system = run_system(folder)
    return {
        "limit": limit_cpu,
        "limit round": limit_round,
        "cpu": system.cpu_s / limit_cpu,
        "round cpu": median(system.round_cpu_s) / limit_round,
        "round wall": median(system.round_wall_s),
        "cold": system.cold_start_s,
        "bytes": system.bytes_per_model,
    }


def _print_row(row: Mapping[str, float], name: str = "") -> None:
    print(
        f"{name:6s}{row['limit']:8.2f}   {row['limit round']:9.2f}   | {row['cpu']:11.2f}   {row['round cpu']:17.2f}"
        f"   {row['round wall']:12.2f}   {row['cold']:12.1f}   {row['bytes']:13.3f}",
        flush=True,
    )


def _study(compression: str) -> str:
    model = (
        f"rounds = {ROUNDS}\nmodel = {{ kind = 'cnn3d', channels = {list(CHANNELS)} }}\n"
        "training = { learning_rate = 0.001, batch_size = 8, local_epochs = 1 }\n"
    )
    sites = "".join(f'\n[[sites]]\nname = "{name}"\n' for name in SITES)
    extra = "\n[federated.compression]\n" + compression.replace(";", "\n") + "\n" if compression else ""
    return STUDY + model + sites + "\n[privacy]\nminimum_cases = 5\n" + extra


def _write_cases(folder: Path, *, seed: int) -> None:
    """Volumes of noise with a bright ball, whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    grid = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2
    ball = (grid**2).sum(axis=0) < 10.0**2
    folder.mkdir(parents=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "malignant"])
        for number in range(N_LISTED):
            case, label = f"C{number:03d}", number % 2
            home = folder / "images" / case
            home.mkdir(parents=True)
            voxels = rng.normal(-50.0 + ball * (80.0 + 40.0 * label), 60.0, ball.shape).astype(np.float32)
            write_volume(Volume.from_geometry(voxels), home / "ct.nii.gz")
            write_volume(Volume.from_geometry(ball), home / "roi.nii.gz")
            writer.writerow([case, label])


def _limit(folder: Path) -> tuple[float, float]:
    """CPU seconds of the same training in one process: the whole process, and a warm round."""
    before = _children_cpu()
    command = [sys.executable, "-m", "simulations.benchmarks.rounds", "--limit", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return _children_cpu() - before, float(done.stdout.split()[-1])


def train_in_one_process(folder: Path) -> None:
    """Plain torch: average after each round; prints the CPU seconds of a warm round."""
    from time import process_time

    import torch

    from common.models.cnn3d import CnnConfig
    from common.models.interface import ModelInputs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CnnConfig(channels=CHANNELS).build(ModelInputs(2, (SIDE, SIDE, SIDE), 0, 1))
    sites = [torch.from_numpy(np.random.default_rng(n).random((N_TRAIN, 2, SIDE, SIDE, SIDE), "f4")) for n in range(4)]
    targets = (torch.arange(N_TRAIN) % 2).float()[:, None]
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = process_time()
        total = [torch.zeros_like(p) for p in start]
        for images in sites:
            _one_epoch(model, parameters, start, images, targets)
            for mean, parameter in zip(total, parameters, strict=True):
                mean += parameter.detach() / len(sites)
        start = total
        rounds.append(process_time() - began)
    print(folder.name, median(rounds[1:]))


def _one_epoch(model: Any, parameters: Any, start: Any, images: Any, targets: Any) -> None:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from client.training.optimisers import Adam

    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
    optimiser = Adam(tuple(parameters))
    for rows in torch.randperm(N_TRAIN).reshape(-1, 8):
        for parameter in parameters:
            parameter.grad = None
        binary_cross_entropy_with_logits(model(images[rows], None), targets[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step(1e-3)


def run_system(folder: Path) -> Run:
    """Coordinator and hospitals as processes; what they cost."""
    consortium = Consortium(folder, SITES, f"127.0.0.1:{free_port()}", Separation("folders"))
    consortium.coordinator.mkdir()
    consortium.provision(folder / "study.toml", minimum_cases=5)
    before, started = _children_cpu(), perf_counter()
    ends: list[tuple[float, float]] = []
    with Parties(consortium.separation) as parties:
        consortium.start_coordinator(parties)
        for name in SITES:
            consortium.start_hospital(parties, name)
        trees = [psutil.Process(process.pid) for process in parties.running.values()]
        while COORDINATOR not in (ended := parties.ended()):
            for _ in range(len(_rounds(consortium)) - len(ends)):
                ends.append((perf_counter() - started, _cpu(trees)))
            consortium.require_running(ended)
            if perf_counter() - started > DEADLINE_S:
                raise FederationError(f"not finished after {DEADLINE_S:g} s")
            sleep(POLL_S)
        consortium.require_running(parties.ended())
    walls, cpus = zip(*ends, strict=True)
    return Run(
        cpu_s=_children_cpu() - before,
        round_wall_s=tuple(np.diff(walls).tolist()),
        round_cpu_s=tuple(np.diff(cpus).tolist()),
        first_round_s=walls[0],
        bytes_per_model=_bytes_per_model(consortium),
    )


def _rounds(consortium: Consortium) -> list[dict[str, Any]]:
    return [line for line in _journal(consortium) if line["event"] == "round"]


def _journal(consortium: Consortium) -> list[dict[str, Any]]:
    path = consortium.run_folder / JOURNAL_FILE
    whole = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


def _bytes_per_model(consortium: Consortium) -> float:
    answers = [
        line for line in _journal(consortium) if line["event"] == "answer" and line.get("phase", "").startswith("train")
    ]
    warm = answers[len(SITES) :]
    moved: float = sum(line["bytes_down"] + line["bytes_up"] for line in warm)
    return moved / len(warm) / model_bytes()


def model_bytes() -> int:
    from common.models.cnn3d import CnnConfig
    from common.models.interface import ModelInputs

    model = CnnConfig(channels=CHANNELS).build(ModelInputs(2, (SIDE, SIDE, SIDE), 0, 1))
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def _cpu(trees: Sequence[psutil.Process]) -> float:
    total = 0.0
    for tree in trees:
        try:
            for process in (tree, *tree.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return total


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
