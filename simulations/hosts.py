"""A study on hosts of their own: coordinator, hospitals and a proxy in network namespaces, with cables that fail.

::

    coordinator     listens on port 443, IPv4 and IPv6
    hospitals       may connect to nothing but that port, each on another way: IPv4, IPv6, through the proxy, in turn
    proxy           may connect to the coordinator's port 443; the hospitals behind it know neither name nor route

Needs root, iproute2, nftables and TUN: ``python -m simulations.hosts STUDY --cases CSV --data FOLDER --out FOLDER``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from common.config.loading import load
from common.config.study import StudyConfig
from common.errors import FederationError, StateError
from common.journal import JsonLines
from server.opening import JOURNAL_FILE
from simulations.cable import Quality
from simulations.clocks import Clock
from simulations.consortium import COORDINATOR, Consortium, last_lines
from simulations.network import Network, Pass
from simulations.parties import Parties, Separation
from simulations.run import Cohort

NAME, PORT = "fedrad.example.org", 443
PROXY, PROXY_PORT = "proxy", 3128
WAYS = ("IPv4", "IPv6", "proxy")
SLOW_AND_LOSSY = Quality(delay_s=0.01, loss=0.005)
"""Of each cable; there and back crosses four: 40 ms and 2 %."""

CUT_S = 6.0
END_S = 240.0
POLL_S = 0.05


@dataclass
class Hosts:
    """The parties on their hosts, running.

    Parameters
    ----------
    deadline : float
        Monotonic seconds; every wait ends there.
    """

    network: Network
    consortium: Consortium
    parties: Parties
    deadline: float

    def way(self, hospital: str) -> str:
        """How a hospital reaches the coordinator."""
        return WAYS[self.consortium.hospitals.index(hospital) % len(WAYS)]

    def preflight(self, hospital: str) -> tuple[int, str]:
        """Exit code and screen of ``fedrad site preflight`` on the hospital's host."""
        done = subprocess.run(  # noqa: S603  # fedrad itself
            [*self.parties.enter[hospital], sys.executable, "-m", "simulations", "site", "preflight", "site.toml"],
            cwd=self.consortium.hospital(hospital),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def start(self) -> None:
        """Start the coordinator and all hospitals."""
        self.consortium.start_coordinator(self.parties)
        for name in self.consortium.hospitals:
            self.consortium.start_hospital(self.parties, name)

    def wait_for_rounds(self, n: int) -> None:
        """Wait until ``n`` rounds are complete."""
        journal = JsonLines(self.consortium.run_folder / JOURNAL_FILE)
        self.wait(lambda: sum(line["event"] == "round" for line in journal.read()) >= n)

    def wait_for_end(self) -> None:
        """Wait until the coordinator has ended well."""
        self.wait(lambda: COORDINATOR in self.parties.ended())

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while all parties run.

        Raises
        ------
        FederationError
            If a party ends before its time, or the time is over.
        """
        while not condition():
            self.consortium.require_running(self.parties.ended())
            if monotonic() > self.deadline:
                tail = last_lines(self.consortium.coordinator / "output.log", 5)
                raise FederationError(f"not finished in time: {' | '.join(tail)}")
            sleep(POLL_S)

    def cut(self, host: str, seconds: float) -> None:
        """Let nothing through a host's cable for a while."""
        cable = self.network.cables[host]
        cable.cut = True
        sleep(seconds)
        cable.cut = False

    def transgressions(self) -> list[str]:
        """Ways through the firewall that should not exist, tried while the parties run; none where all is well."""
        tried = [(a, b, PORT) for a in self.consortium.hospitals for b in self.consortium.hospitals if a != b]
        tried += [(COORDINATOR, name, PORT) for name in self.consortium.hospitals]
        tried += [(name, COORDINATOR, 22) for name in self.consortium.hospitals]
        tried += [(name, COORDINATOR, PORT) for name in self.consortium.hospitals if self.way(name) == "proxy"]
        with ThreadPoolExecutor(len(tried)) as pool:
            reached = pool.map(lambda way: self._reaches(*way), tried)
        return [f"{a} reaches {b}:{port}" for (a, b, port), found in zip(tried, reached, strict=True) if found]

    def _reaches(self, source: str, target: str, port: int) -> bool:
        return self.network.can_connect(source, self.network.address(target), port)


@contextmanager
def open_hosts(
    consortium: Consortium,
    *,
    quality: Quality = SLOW_AND_LOSSY,
    seconds: float = END_S,
    clocks: Mapping[str, Clock] | None = None,
) -> Iterator[Hosts]:
    """Hosts for a consortium that has been provisioned; everything ends with the block.

    Parameters
    ----------
    clocks : mapping, optional
        Hospital -> its own clock; the others have the machine's.
    """
    hospitals = consortium.hospitals
    ways = {name: WAYS[number % len(WAYS)] for number, name in enumerate(hospitals)}
    hosts = [COORDINATOR, PROXY, *hospitals]
    allowed = [
        Pass(name, PROXY, PROXY_PORT) if ways[name] == "proxy" else Pass(name, COORDINATOR, PORT) for name in hospitals
    ]
    network = Network(hosts, [*allowed, Pass(PROXY, COORDINATOR, PORT)], quality)
    addresses = {"IPv4": network.address(COORDINATOR), "IPv6": network.address(COORDINATOR, version=6)}
    network.names = {PROXY: {NAME: addresses["IPv4"]}} | {
        name: {NAME: addresses[way]} for name, way in ways.items() if way in addresses
    }
    proxy_url = f"http://{network.address(PROXY)}:{PROXY_PORT}"
    with network:
        enter = {COORDINATOR: network.prefix(COORDINATOR)} | {
            name: network.prefix(
                name,
                **({"HTTPS_PROXY": proxy_url} if way == "proxy" else {}),
                **(clocks[name].environment() if clocks and name in clocks else {}),
            )
            for name, way in ways.items()
        }
        separation = Separation("folders")
        with _proxy(network), Parties(separation, enter) as parties:
            yield Hosts(network, consortium, parties, monotonic() + seconds)


def consortium_of(folder: Path, cohort: Cohort, study_file: Path) -> Consortium:
    """A consortium for these hosts: each hospital with its own rows and images of a cohort, and its keys.

    Raises
    ------
    StateError
        If the study has no column that names each case's hospital.
    """
    study = load(study_file, StudyConfig)
    if study.site_column is None:
        raise StateError(f"{study_file}: site_column is missing, so the cohort cannot be dealt to hospitals")
    hospitals = tuple(sorted(site.name for site in study.sites))
    made = Consortium(folder, hospitals, f"{NAME}:{PORT}", Separation("folders"), listen=f"[::]:{PORT}", names=(NAME,))
    made.coordinator.mkdir(parents=True)
    with cohort.cases.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in hospitals:
        own = [row for row in rows if row[study.site_column] == name]
        home = made.hospital(name)
        home.mkdir(parents=True)
        with (home / "cases.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(own)
        for row in own:
            shutil.copytree(cohort.data / row[study.case_column], home / row[study.case_column])
    made.provision(study_file, minimum_cases=study.privacy.minimum_cases)
    return made


@contextmanager
def _proxy(network: Network) -> Iterator[None]:
    module = [sys.executable, "-m", "simulations.connect_proxy"]
    process = subprocess.Popen(  # noqa: S603  # fedrad's own module
        [*network.prefix(PROXY), *module, network.address(PROXY), str(PROXY_PORT), f"{NAME}:{PORT}"],
        **Separation("folders").identity(0),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study on hosts of its own, cut every cable once, and say what happened."""
    parser = argparse.ArgumentParser(description="Run a study on hosts in network namespaces.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--cases", type=Path, required=True, help="CSV with one row a case")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder of images for each case")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--seconds", type=float, default=END_S, help="everything ends after so long")
    given = parser.parse_args(arguments)
    consortium = consortium_of(given.out.resolve(), Cohort(given.cases, given.data), given.study)
    with open_hosts(consortium, seconds=given.seconds) as hosts:
        hosts.start()
        for round_number, host in enumerate((*consortium.hospitals, PROXY, COORDINATOR), start=1):
            hosts.wait_for_rounds(round_number)
            print(f"round {round_number} complete; the cable of {host} is cut for {CUT_S:.0f} s", flush=True)
            hosts.cut(host, CUT_S)
        hosts.wait_for_end()
        for host, cable in hosts.network.cables.items():
            print(f"{host}: {cable.carried} packets carried, {cable.lost} lost")
    print(f"report: {consortium.run_folder / 'report.html'}")


if __name__ == "__main__":
    main()
