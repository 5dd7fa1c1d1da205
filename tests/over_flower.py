"""The small study over real Flower processes, and the digests by which two runs of it are compared bit by bit."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.journal import JsonLines
from server.checkpoint import CheckpointStore, Unit
from server.opening import open_run
from server.training_state import TrainingState
from simulations.consortium import COORDINATOR, Consortium, free_port, last_lines
from simulations.parties import Parties, Separation
from simulations.run import Cohort, simulate
from tests.small_study import N_CASES, write_study

END_S = 120.0


def digests_in_process(folder: Path, cohort: Cohort, text: str) -> dict[str, str]:
    """Those of the study run by one process: the reference."""
    study_file, study = write_study(folder, text)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    return final_digests(folder / "run", study)


def laid_out(cohort: Cohort, folder: Path, text: str) -> Consortium:
    """Three hospitals that hold their own cases, and a coordinator; nothing runs yet."""
    folder.mkdir(exist_ok=True)
    study_file, _ = write_study(folder, text)
    made = Consortium(folder, tuple(sorted(N_CASES)), f"127.0.0.1:{free_port()}", Separation("folders"))
    made.coordinator.mkdir()
    header, *rows = cohort.cases.read_text().splitlines()
    for name in made.hospitals:
        home = made.hospital(name)
        home.mkdir(parents=True)
        own = [row for row in rows if f",{name}," in row]
        (home / "cases.csv").write_text("\n".join([header, *own]) + "\n")
        for row in own:
            case_id = row.split(",")[0]
            shutil.copytree(cohort.data / case_id, home / case_id)
    made.provision(study_file, minimum_cases=2)
    return made


def final_digests(folder: Path, study: StudyConfig) -> dict[str, str]:
    """Of the trained parameters, and of what statistics ended in: the table's steps and the solved model."""
    store = CheckpointStore(folder / "checkpoints", digest(study))
    found = {}
    for name in store.names():
        unit = store.load(name)
        if unit is not None and name.startswith("training."):
            found[name] = TrainingState.from_unit(unit).parameters.digest()
        elif unit is not None and name.startswith(("table.", "solution.")):
            found[name] = digest_of(unit)
    return found


def digest_of(unit: Unit) -> str:
    sha = hashlib.sha256(json.dumps(unit.values, sort_keys=True).encode())
    for name in sorted(unit.arrays):
        sha.update(f"{name} {unit.arrays[name].shape} ".encode() + unit.arrays[name].tobytes())
    return sha.hexdigest()


def start_all(consortium: Consortium, parties: Parties) -> None:
    consortium.start_coordinator(parties)
    for name in consortium.hospitals:
        consortium.start_hospital(parties, name)


def kill(parties: Parties, name: str) -> None:
    """With ``-9``; the party is forgotten, so that its end is no fault."""
    killed = parties.running.pop(name)
    killed.kill()
    killed.wait()


def wait_for_end(consortium: Consortium, parties: Parties) -> dict[str, str]:
    """Digests once the coordinator has ended well; a party that ended otherwise fails the test with its last lines."""
    end = time.monotonic() + END_S
    while COORDINATOR not in parties.ended():
        consortium.require_running(parties.ended())
        assert time.monotonic() < end, last_lines(consortium.coordinator / "output.log", 20)
        time.sleep(0.05)
    consortium.require_running(parties.ended())
    return final_digests(consortium.run_folder, load(consortium.coordinator / "study.toml", StudyConfig))


def wait_for_rounds(consortium: Consortium, parties: Parties, n: int) -> None:
    wait_for_lines(consortium, parties, n, event="round")


def wait_for_lines(consortium: Consortium, parties: Parties, n: int, **told: str) -> None:
    """Until the journal holds that many lines in which these fields have these values."""
    journal = JsonLines(consortium.run_folder / "events.jsonl")
    end = time.monotonic() + END_S
    while sum(told.items() <= line.items() for line in journal.read()) < n:
        consortium.require_running(parties.ended())
        assert time.monotonic() < end, last_lines(consortium.coordinator / "output.log", 20)
        time.sleep(0.002)
