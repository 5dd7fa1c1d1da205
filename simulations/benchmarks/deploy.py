"""What the network costs: empty rounds over real processes and mutual TLS on loopback.

``python -m simulations.benchmarks.deploy`` starts a coordinator (this process) and site processes that answer at once
with a delta of the model's size, different at every site and in every round (Flower stores equal objects once, which
would flatter). It prints, for each size of model, the median wall time of a round, CPU seconds of all processes, and
the bytes that crossed the loopback interface against the model. Run it on an idle machine: other traffic on loopback
is counted too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import psutil

from client.identity import make_identity
from client.node import NodeConnection, serve
from common.arrays import Parameters
from common.errors import FederationError
from common.messages import Done, LocalUpdate, Reply, Request, Train
from server.checkpoint import write_atomic
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.provisioning import init_authority

TARGET_S = {1: 0.2, 50: 1.8, 130: 5.0}
"""MB of the model, and the wall seconds that a round should take on idle cores."""

SITES = ("east", "north", "south")
ROUNDS = 5
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Round:
    """Cost of one empty round."""

    wall_s: float
    coordinator_cpu_s: float
    sites_cpu_s: float
    loopback_bytes: int


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        authority = init_authority(home, addresses=["127.0.0.1"])
        for site in SITES:
            request = make_identity(home / site, site=site)
            write_atomic(home / site / "node.pem", authority.sign(request, site=site))
            write_atomic(home / site / "ca.pem", authority.ca_certificate)
        with FlowerFederation(CoordinatorSettings(home, "127.0.0.1:0")) as federation:
            processes = [_start(federation.port, home, site) for site in SITES]
            try:
                _measure_all(federation, [psutil.Process(process.pid) for process in processes])
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait()


def site_main(address: str, home: Path) -> None:
    """A site that answers at once."""
    number = 0

    def answer(request: Request) -> Reply:
        nonlocal number
        number += 1
        if not isinstance(request, Train):
            return Done()
        delta = {name: array + np.float32(number + hash(home) % 1000) for name, array in request.parameters.items()}
        return LocalUpdate(request.model, request.round_number, 1, Parameters(delta), 0.0)

    connection = NodeConnection(address, home / "ca.pem", home / "node.key", home / "node.pem")
    serve(connection, answer, stop=threading.Event(), on_event=lambda _: None)


def _start(port: int, home: Path, site: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simulations.benchmarks.deploy", f"127.0.0.1:{port}", str(home / site)]
    return subprocess.Popen(command)


def _measure_all(federation: FlowerFederation, sites: list[psutil.Process]) -> None:
    started = perf_counter()
    if missing := federation.wait_for(SITES, deadline_s=DEADLINE_S):
        raise FederationError(f"{', '.join(missing)} did not connect")
    print(f"{len(SITES)} sites connected after {perf_counter() - started:.1f} s", flush=True)
    print("  MB   wall s   target   coordinator CPU s   sites CPU s   bytes / model, per site and direction")
    for size, target in TARGET_S.items():
        model = np.random.default_rng(0).random(size * 250_000, dtype=np.float32)
        rounds = [_measure(federation, sites, model, number) for number in range(ROUNDS + 1)][1:]
        ratio = median(r.loopback_bytes for r in rounds) / (2 * len(SITES) * model.nbytes)
        wall_s, coordinator_s, sites_s = (
            median(values)
            for values in zip(*((r.wall_s, r.coordinator_cpu_s, r.sites_cpu_s) for r in rounds), strict=True)
        )
        print(
            f"{size:4d}   {wall_s:6.3f}   {target:6.1f}   {coordinator_s:17.3f}   {sites_s:11.3f}   {ratio:.4f}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"coordinator's peak memory: {peak:.0f} MiB, of which the largest model is {max(TARGET_S)} MB", flush=True)


def _measure(federation: FlowerFederation, sites: list[psutil.Process], model: np.ndarray, number: int) -> Round:
    request = Train("bench", 0, "model", number + 1, Parameters({"weights": model + np.float32(number)}))
    before, wall, cpu, traffic = _cpu(sites), perf_counter(), process_time(), _loopback()
    for answer in federation.ask(dict.fromkeys(SITES, request), deadline_s=DEADLINE_S):
        if not isinstance(answer.reply, LocalUpdate):
            raise FederationError(f"site {answer.site} answered {answer.reply}")
    return Round(perf_counter() - wall, process_time() - cpu, _cpu(sites) - before, _loopback() - traffic)


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


def _loopback() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        site_main(sys.argv[1], Path(sys.argv[2]))
