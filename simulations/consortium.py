"""A consortium on one machine: folders, certificates and site files as its parties would have them, and its processes.

Folder layout::

    FOLDER/hospitals/<name>/     site.toml, study.toml, approval.txt, cases.csv, keys/, state/    the hospital's own
    FOLDER/coordinator/          the authority, study.toml, run/                                  the coordinator's own
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from client.governance_cli import approve
from client.identity import make_identity
from common.config.loading import load
from common.config.study import StudyConfig
from common.errors import FederationError
from server.checkpoint import write_atomic
from server.provisioning import init_authority
from simulations.parties import KERNEL_CACHE, Parties, Separation
from simulations.run import gate_for

COORDINATOR = "coordinator"
SUPERVISION_LOG = "supervision.jsonl"

COMPILE_KERNELS = """
import numpy as np
from client.radiomics.extractor import extract
from client.radiomics.settings import preset
from common.volume import Volume
image = Volume.from_geometry(np.random.default_rng(0).normal(size=(12, 12, 12)).astype("f4"))
roi = np.zeros((12, 12, 12), dtype=bool)
roi[3:9, 3:9, 3:9] = True
extract(image, Volume.from_geometry(roi), preset("fast"), case_id="none")
"""


@dataclass(frozen=True)
class Consortium:
    """Where the parties live; party 0 is the coordinator, the hospitals follow in order.

    Parameters
    ----------
    address : str
        ``host:port`` under which hospitals reach the coordinator.
    listen : str
        Where the coordinator listens, if that differs.
    names : tuple of str
        Names and addresses in its certificate.
    supervised : bool
        Every process runs under `fedrad supervise`: it is started again when it dies, and the study goes on.
    """

    folder: Path
    hospitals: tuple[str, ...]
    address: str
    separation: Separation
    listen: str = ""
    names: tuple[str, ...] = ("127.0.0.1", "localhost")
    supervised: bool = False

    @property
    def coordinator(self) -> Path:
        return self.folder / COORDINATOR

    @property
    def run_folder(self) -> Path:
        return self.coordinator / "run"

    def hospital(self, name: str) -> Path:
        return self.folder / "hospitals" / name

    def provision(self, study_file: Path, *, minimum_cases: int) -> None:
        """Keys made at each hospital and signed by the coordinator's authority, the study approved, folders closed.

        The hospitals' folders and ``cases.csv`` are there already.
        """
        authority = init_authority(self.coordinator, addresses=self.names)
        gate = gate_for(load(study_file, StudyConfig))
        for number, name in enumerate(self.hospitals, start=1):
            home = self.hospital(name)
            request = make_identity(home / "keys", site=name)
            write_atomic(home / "keys" / "node.pem", authority.sign(request, site=name))
            write_atomic(home / "keys" / "ca.pem", authority.ca_certificate)
            write_atomic(home / "site.toml", self._site_toml(name, minimum_cases, gate.max_rounds).encode())
            shutil.copyfile(study_file, home / "study.toml")
            with (home / "approval.txt").open("w") as told, redirect_stdout(told):  # what its people would read
                approve(home / "study.toml", home / "site.toml", yes=True)
            if self.separation.kind == "users":
                shutil.copytree(self._compiled_kernels(), home / KERNEL_CACHE)
            self.separation.own(home, number)
        shutil.copyfile(study_file, self.coordinator / "study.toml")
        self.separation.own(self.coordinator, 0)

    def start_coordinator(self, parties: Parties, *, resume: bool = False) -> None:
        command = ["coordinator", "run", "study.toml", "--home", ".", "--out", "run", "--listen"]
        command.append(self.listen or self.address)
        resumed = [*command, "--resume"] if resume or self.supervised else command
        parties.start(COORDINATOR, 0, self._watched(resumed), folder=self.coordinator)

    def start_hospital(self, parties: Parties, name: str) -> None:
        number = self.hospitals.index(name) + 1
        parties.start(name, number, self._watched(["site", "start", "site.toml"]), folder=self.hospital(name))

    def require_apart(self) -> None:
        """Try to enter every hospital's folder as the coordinator; FederationError where the system lets it in."""
        folders = [str(self.hospital(name)) for name in self.hospitals]
        opened = self.separation.readable_for(0, folders)
        if opened and self.separation.kind != "folders":
            raise FederationError(f"the coordinator can read {', '.join(opened)}")

    def require_running(self, ended: dict[str, int]) -> None:
        """FederationError with the last lines of a party that ended, other than a coordinator that is done."""
        for name, code in ended.items():
            if name == COORDINATOR and code == 0:
                continue
            folder = self.coordinator if name == COORDINATOR else self.hospital(name)
            tail = last_lines(folder / "output.log", 5)
            raise FederationError(f"{name} ended with code {code}: {' | '.join(tail)}")

    def _watched(self, command: Sequence[str]) -> Sequence[str]:
        if not self.supervised:
            return command
        options = ["--log", SUPERVISION_LOG, "--longest-delay-s", "1", "--most-restarts", "100000"]
        return ["supervise", *options, "--", sys.executable, "-m", "simulations", *command]

    def _compiled_kernels(self) -> Path:
        """Machine code for parties that may not write beside the source: compiled once, copied to each."""
        cache = self.folder / KERNEL_CACHE
        if not cache.exists():
            environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
            subprocess.run([sys.executable, "-c", COMPILE_KERNELS], env=environment, check=True)
        return cache

    def _site_toml(self, name: str, minimum_cases: int, max_rounds: int) -> str:
        return f"""site = "{name}"
manifest = "cases.csv"
data = "."
state = "state"
minimum_cases = {minimum_cases}
studies = ["study.toml"]

[coordinator]
address = "{self.address}"
ca = "keys/ca.pem"
node_key = "keys/node.key"
certificate = "keys/node.pem"

[gate]
max_rounds = {max_rounds}
"""


def last_lines(path: Path, n: int) -> Sequence[str]:
    """The last ``n`` lines of a text file; none where there is no file."""
    return path.read_text(errors="replace").strip().splitlines()[-n:] if path.exists() else []


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
