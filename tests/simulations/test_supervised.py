"""A study whose processes are killed and started again by their supervisors ends with the undisturbed run's bits."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from common.journal import JsonLines
from server.opening import open_run
from simulations.consortium import COORDINATOR, SUPERVISION_LOG, Consortium, last_lines
from simulations.parties import Parties, Separation
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.over_flower import final_digests, wait_for_end, wait_for_rounds

SITES = ("east", "north")
ROUNDS = 24


def in_process(folder: Path) -> dict[str, str]:
    folder.mkdir()
    study_file, study = write_study(folder, SITES, rounds=ROUNDS)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, write_cases(folder, SITES), out=folder / "run", journal=opened.journal, baselines=False)
    return final_digests(folder / "run", study)


def kill(folder: Path) -> None:
    """Kill the process that the supervisor of ``folder`` started last, once it lives."""
    started = [line for line in JsonLines(folder / SUPERVISION_LOG).read() if line["event"] == "started"]
    os.kill(int(started[-1]["pid"]), signal.SIGKILL)


def wait_for_restart(folder: Path, restarts: int) -> None:
    end = time.monotonic() + 60
    while not any(
        line["event"] == "started" and line["restarts"] == restarts
        for line in JsonLines(folder / SUPERVISION_LOG).read()
    ):
        assert time.monotonic() < end, last_lines(folder / "output.log", 20)
        time.sleep(0.02)


def disturbed(made: Consortium, parties: Parties) -> dict[str, str]:
    made.start_coordinator(parties)
    for name in made.hospitals:
        made.start_hospital(parties, name)
    wait_for_rounds(made, parties, 5)
    kill(made.hospital("north"))
    wait_for_restart(made.hospital("north"), 1)
    wait_for_rounds(made, parties, 10)
    kill(made.coordinator)
    wait_for_restart(made.coordinator, 1)
    kill(made.hospital("east"))
    return wait_for_end(made, parties)


def test_killed_parties_are_started_again_and_end_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = in_process(tmp_path / "in-process")
    home = tmp_path / "consortium"
    home.mkdir()
    made = tiny_consortium(home, SITES, rounds=ROUNDS, supervised=True)
    with Parties(Separation("folders")) as parties:
        assert disturbed(made, parties) == undisturbed
        assert parties.running[COORDINATOR].returncode == 0
    lines = (made.coordinator / SUPERVISION_LOG).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("restarting") == 1
