"""Memory of the coordinator while many sites send a large model.

``python -m simulations.benchmarks.memory`` (``make bench-memory``) starts, for 4 and for 64 sites, a coordinator
process that trains a network of about 50 MB, and for 4 sites one of 142 MB, for a few rounds (`server.training`, with
its checkpoints), and a process of light sites (`simulations.benchmarks.light_sites`) that speak Flower's Fleet protocol
over mutual TLS. Memory is the resident set as the kernel counts it: with all libraries loaded and every site connected,
before the model exists; and the peak of the rounds. The bound is 3 x the model + 300 MB, alike for any number of sites.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from client.identity import make_identity
from common.arrays import Parameters
from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.errors import FederationError
from common.journal import JsonLines
from common.models import initial_parameters
from common.rng import derived_seed
from server.checkpoint import CheckpointStore, write_atomic
from server.conversation import Conversation
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.courses import FEDERATED, Course
from server.provisioning import init_authority
from server.training import train_group
from simulations.benchmarks.light_sites import LightSites, connection

CHANNELS, MORE_CHANNELS = (128, 256, 448), (256, 512, 704)
SIZES = ((4, CHANNELS), (64, CHANNELS), (4, MORE_CHANNELS))
ROUNDS = 3
DEADLINE_S = 600.0
MB = 10**6
MODEL = "cnn"

STUDY = """
name = "memory"
title = "A large network"
seed = 1
outcome = {{ kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"] }}
images = [{{ name = "ct", modality = "CT", image = "{{case_id}}.nii", roi = "{{case_id}}_roi.nii" }}]
patch = {{ images = ["ct"], spacing_mm = [1, 1, 1], shape = [32, 32, 32] }}
federated = {{ round_deadline_s = 600 }}
sites = [{sites}]

[[models]]
name = "cnn"
rounds = {rounds}
model = {{ kind = "cnn3d", channels = {channels}, blocks = 1 }}
training = {{ batch_size = 8 }}
"""


@dataclass(frozen=True)
class Measured:
    """Resident memory of one coordinator process, in bytes."""

    n_sites: int
    model: int
    idle: int
    peak: int
    seconds_a_round: float

    @property
    def line(self) -> str:
        multiple = (self.peak - self.idle) / self.model
        bound = 3 * self.model + 300 * MB
        verdict = "within" if self.peak <= bound else "ABOVE"
        return (
            f"{self.n_sites:5d}   {self.model / MB:8.1f}   {self.idle / MB:7.0f}   {self.peak / MB:7.0f}   "
            f"{multiple:5.2f}   {self.seconds_a_round:7.1f}   {verdict} 3 x model + 300 MB = {bound / MB:.0f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; started with ``--coordinator`` or ``--sites``, be that party."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", type=int)
    parser.add_argument("--sites", type=int)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    asked = parser.parse_args(arguments)
    if asked.coordinator is not None:
        print(json.dumps(asdict(coordinate(asked.home, asked.coordinator, asked.channels))))
    elif asked.sites is not None:
        study = study_of(asked.sites, asked.channels)
        names = study.training_sites
        LightSites(_start(study), MODEL).run([connection(asked.home, name, asked.port) for name in names])
    else:
        print("sites   model MB   idle MB   peak MB   (peak - idle) / model   s/round   bound", flush=True)
        for n_sites, channels in SIZES:
            print(measure(n_sites, channels).line, flush=True)


def measure(n_sites: int, channels: Sequence[int]) -> Measured:
    """One coordinator with ``n_sites`` sites, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_program(Path(folder), channels), "--coordinator", str(n_sites)]
        coordinator = subprocess.run(command, check=True, capture_output=True, text=True)
        return Measured(**json.loads(coordinator.stdout.splitlines()[-1]))


def coordinate(home: Path, n_sites: int, channels: Sequence[int]) -> Measured:
    """Train the network; the sites are a process that this one starts."""
    study = study_of(n_sites, channels)
    authority = init_authority(home, addresses=["127.0.0.1"])
    for site in study.training_sites:
        write_atomic(home / site / "node.pem", authority.sign(make_identity(home / site, site=site), site=site))
        write_atomic(home / site / "ca.pem", authority.ca_certificate)
    conversation_log = JsonLines(home / "events.jsonl")
    with FlowerFederation(CoordinatorSettings(home, "127.0.0.1:0")) as federation:
        command = [*_program(home, channels), "--sites", str(n_sites), "--port", str(federation.port)]
        sites = subprocess.Popen(command)
        try:
            if missing := federation.wait_for(study.training_sites, deadline_s=DEADLINE_S):
                raise FederationError(f"{len(missing)} sites did not connect")
            idle = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            started = perf_counter()
            conversation = Conversation(federation, conversation_log, digest(study))
            store = CheckpointStore(home / "checkpoints", digest(study))
            course = Course(FEDERATED, study.training_sites)
            states = train_group(study, study.study_model(MODEL), (course,), 0, {FEDERATED: ()}, conversation, store)
            seconds = (perf_counter() - started) / ROUNDS
            peak = resident("VmHWM")
        finally:
            sites.terminate()
            sites.wait()
    model = 4 * states[FEDERATED].parameters.size
    return Measured(n_sites, model, idle, peak, seconds)


def study_of(n_sites: int, channels: Sequence[int]) -> StudyConfig:
    """The study of so many sites, and a network of so many filters in each stage."""
    sites = ", ".join(f'{{ name = "site{number:02d}" }}' for number in range(n_sites))
    return parse(STUDY.format(sites=sites, rounds=ROUNDS, channels=list(channels)), StudyConfig, source="memory study")


def _program(home: Path, channels: Sequence[int]) -> list[str]:
    """The command that is running, for one party."""
    filters = map(str, channels)
    return [sys.executable, "-m", "simulations.benchmarks.memory", "--home", str(home), "--channels", *filters]


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    if found is None:
        raise FederationError(f"this system does not tell {field}")
    return int(found[1]) * 1024


def _start(study: StudyConfig) -> Parameters:
    entry = study.study_model(MODEL)
    return initial_parameters(entry.trained[0], study.model_inputs(0), derived_seed(study.seed, "initial", MODEL))


if __name__ == "__main__":
    main()
