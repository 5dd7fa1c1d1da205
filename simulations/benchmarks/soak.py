"""A long study whose processes are killed and whose cables are cut at random: what it ends with, and what it leaves.

``python -m simulations.benchmarks.soak --rounds 500`` runs the tiny study over a real coordinator and three sites with
mutual TLS, each under `fedrad supervise`. Until shortly before the end a process of a random kind gets SIGKILL or a
site's connection is cut, again and again; ``--disturbed 0.6`` leaves the last two fifths calm, so that growth can be
measured in longer lives; ``--masked`` adds up all answers under masks. All sites take part in every round. At the end
the parameters must be the bits of an undisturbed run in one process, and no process, socket, file descriptor, file or
memory may be left over; exit code 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import psutil

from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import FederationError
from common.files import PARTIAL
from common.journal import JsonLines
from server.checkpoint import CheckpointStore
from server.opening import JOURNAL_FILE, open_run
from server.training_state import TrainingState
from simulations.benchmarks.growth import Life, grown
from simulations.benchmarks.relay import Relay
from simulations.consortium import COORDINATOR, SUPERVISION_LOG, Consortium, free_port, last_lines
from simulations.parties import Parties, Separation
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study

SITES = ("east", "north", "south")
DISTURBED = 0.95
"""Share of the rounds in which something dies."""

SAMPLE_S = 0.5
CUT_S = (0.5, 4.0)


class Soak:
    """The consortium under way, and what is done to it.

    Parameters
    ----------
    relay : Relay
        What the sites connect through.
    rng : random.Random
        Decides who dies when.
    disturbed : float
        Share of the rounds in which somebody does.
    """

    def __init__(
        self, made: Consortium, parties: Parties, relay: Relay, rng: random.Random, disturbed: float = DISTURBED
    ) -> None:
        self.made, self.parties, self.relay, self.rng, self.disturbed = made, parties, relay, rng, disturbed
        self.journal = JsonLines(made.run_folder / JOURNAL_FILE)
        self.lives: dict[str, dict[int, Life]] = {name: {} for name in (COORDINATOR, *SITES)}
        self.done: Counter[str] = Counter()

    def run(self, rounds: int, *, every_s: float, seconds: float, tell: Callable[[str], None]) -> None:
        """Start everybody and disturb them until the study has ended.

        Raises
        ------
        FederationError
            If it has not ended in time, or ended badly.
        """
        self._start(COORDINATOR)
        for site in SITES:
            self._start(site)
        end, next_disturbance, told = monotonic() + seconds, monotonic() + every_s, 0
        while not self._ended():
            if monotonic() > end:
                lines = "\n".join(last_lines(self.made.coordinator / "output.log", 10))
                raise FederationError(f"{self.rounds()} of {rounds} rounds in {seconds:.0f} s:\n{lines}")
            n = self.rounds()
            self._sample(n)
            if n < self.disturbed * rounds and monotonic() > next_disturbance:
                self._disturb()
                next_disturbance = monotonic() + every_s * self.rng.uniform(0.3, 1.7)
            if n >= told + rounds // 10:
                told = n
                tell(f"{n} rounds, {sum(self.done.values())} disturbances")
            sleep(SAMPLE_S)

    def rounds(self) -> int:
        """Complete rounds; one that was done again after a kill counts once."""
        return len({line["round_number"] for line in self.journal.read() if line["event"] == "round"})

    def _start(self, name: str) -> None:
        if name == COORDINATOR:
            self.made.start_coordinator(self.parties)
        else:
            self.made.start_hospital(self.parties, name)

    def _ended(self) -> bool:
        """True once the coordinator ended well; a party whose supervisor was killed is started again."""
        for name, code in self.parties.ended().items():
            if name == COORDINATOR and code == 0:
                return True
            stopped = code in (0, 128 + signal.SIGTERM)
            if code >= 0 and not stopped:
                folder = self.made.coordinator if name == COORDINATOR else self.made.hospital(name)
                lines = [*last_lines(folder / "output.log", 5), *last_lines(folder / SUPERVISION_LOG, 5)]
                raise FederationError(f"supervisor of {name} ended with code {code}:\n" + "\n".join(lines))
            if stopped:  # somebody else on this machine sent SIGTERM: one disturbance more
                self.done["stopped from outside"] += 1
            del self.parties.running[name]
            self._start(name)
        return False

    def _disturb(self) -> None:
        kind = self.rng.choice(["coordinator", "site", "site", "supervisor", "cut", "cut"])
        party = COORDINATOR if kind == "coordinator" else self.rng.choice(SITES)
        if kind == "cut":
            self.relay.cut(self.rng.uniform(*CUT_S))
        elif kind == "supervisor":
            self.parties.running[self.rng.choice([COORDINATOR, party])].kill()
        else:
            child = self._child(party)
            if child is None:  # it is being started again
                return
            child.kill()
        self.done[kind] += 1

    def _child(self, party: str) -> psutil.Process | None:
        """The process that a party's supervisor started."""
        supervisor = self.parties.running.get(party)
        try:
            return psutil.Process(supervisor.pid).children()[0] if supervisor else None
        except (psutil.NoSuchProcess, IndexError):
            return None

    def _sample(self, rounds: int) -> None:
        for party, lives in self.lives.items():
            child = self._child(party)
            try:
                if child is not None:
                    sample = (rounds, child.memory_info().rss / 1e6, child.num_fds())
                    lives.setdefault(child.pid, Life()).samples.append(sample)
            except psutil.NoSuchProcess:
                continue


def parameters_of(folder: Path, study: StudyConfig) -> dict[str, str]:
    """SHA-256 of the final parameters of every training in a run's folder."""
    store = CheckpointStore(folder / "checkpoints", digest(study))
    found = {}
    for name in store.names():
        unit = store.load(name)
        if unit is not None and name.startswith("training."):
            found[name] = TrainingState.from_unit(unit).parameters.digest()
    return found


def left_over(folder: Path, ports: set[int], before: set[int]) -> list[str]:
    """What should not be there once everything has ended: processes, listening sockets, half-written files."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if process.pid not in before and process.status() != psutil.STATUS_ZOMBIE:
            found.append(f"process {process.pid}")
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if str(process.info["cwd"] or "").startswith(str(folder)):
            found.append(f"process {process.pid} in {process.info['cwd']}")
    for connection in psutil.net_connections("tcp"):
        port = connection.laddr[1] if connection.laddr else 0
        if connection.status == psutil.CONN_LISTEN and port in ports:
            found.append(f"socket on port {port}")
    return found


def half_written(folder: Path) -> int:
    return sum(1 for path in folder.rglob(f"{PARTIAL}*") if path.is_file())


def main(arguments: list[str] | None = None) -> int:
    """Run, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--every-s", type=float, default=8.0, help="mean seconds between two disturbances")
    parser.add_argument("--seconds", type=float, default=7200.0, help="give up after so long")
    parser.add_argument("--disturbed", type=float, default=DISTURBED, help="share of the rounds in which they come")
    parser.add_argument("--masked", action="store_true", help="all answers are added up under masks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return _soak(Path(folder), options)


def _soak(folder: Path, options: argparse.Namespace) -> int:
    rounds: int = options.rounds

    def tell(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    study, expected = _undisturbed(folder / "undisturbed", rounds, masked=options.masked)
    home = folder / "consortium"
    home.mkdir()
    made = tiny_consortium(home, SITES, rounds=rounds, supervised=True, masked=options.masked)
    made = replace(made, listen=f"127.0.0.1:{free_port()}")
    ports = {int(address.rpartition(":")[2]) for address in (made.address, made.listen)}
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    descriptors, started = psutil.Process().num_fds(), monotonic()
    with Relay(made.address, made.listen) as relay, Parties(Separation("folders")) as parties:
        rng = random.Random(options.seed)  # noqa: S311 - who dies when, no secret
        soak = Soak(made, parties, relay, rng, options.disturbed)
        soak.run(rounds, every_s=options.every_s, seconds=options.seconds, tell=tell)
    faults = left_over(home, ports, before)
    if parameters_of(made.run_folder, study) != expected:
        faults.append("the final parameters are not the undisturbed run's")
    absent = [line for line in soak.journal.read() if line["event"] == "round" and line["sites"] != len(SITES)]
    faults += [f"round {line['round_number']} had {line['sites']} sites" for line in absent]
    opened = psutil.Process().num_fds() - descriptors
    if opened > 0:
        faults.append(f"{opened} file descriptors of this process were not closed")
    kills = sum(soak.done.values()) - soak.done["cut"]
    if half_written(home) > kills:  # a kill may leave one, which the next start tidies after an hour
        faults.append(f"{half_written(home)} half-written files after {kills} kills")
    disturbances = ", ".join(f"{n} {kind}" for kind, n in sorted(soak.done.items()))
    tell(f"{rounds} rounds in {monotonic() - started:.0f} s; disturbances: {disturbances}")
    tell(f"final parameters: {', '.join(value[:16] for value in expected.values())}; equal: {not faults}")
    faults += grown(soak.lives, tell)
    for fault in faults:
        tell(f"FAULT: {fault}")
    return 1 if faults else 0


def _undisturbed(folder: Path, rounds: int, *, masked: bool) -> tuple[StudyConfig, dict[str, str]]:
    folder.mkdir()
    study_file, study = write_study(folder, SITES, rounds=rounds, masked=masked)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, write_cases(folder, SITES), out=folder / "run", journal=opened.journal, baselines=False)
    return study, parameters_of(folder / "run", study)


if __name__ == "__main__":
    sys.exit(main())
