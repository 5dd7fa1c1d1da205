"""The same study over real Flower processes: equal to the last bit to one process, and to itself after `kill -9`."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.files import PARTIAL
from common.journal import JsonLines
from server.checkpoint import CheckpointStore, Unit
from server.opening import open_run
from server.training import TrainingState
from simulations.consortium import COORDINATOR, Consortium, free_port, last_lines
from simulations.parties import Parties, Separation
from simulations.run import Cohort, simulate
from tests.small_study import N_CASES, ROBUSTNESS, STANDARDISED, write_cohort, write_study

END_S = 120.0

LEARNED = f"""{STANDARDISED}{ROBUSTNESS}
[table]
combat = {{}}
selection = [{{ kind = "univariate", keep = 10 }}]

[[models]]
name = "ridge"
model = {{ kind = "ridge", penalty = 0.1 }}
"""
"""All that is learned by questions: landmarks, robust features, harmonisation, selection, and a solved model."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def in_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("in-process")
    study_file, study = write_study(folder, LEARNED)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    return final_digests(folder / "run", study)


@pytest.fixture
def consortium(cohort: Cohort, tmp_path: Path) -> Consortium:
    return laid_out(cohort, tmp_path, LEARNED)


def laid_out(cohort: Cohort, folder: Path, text: str) -> Consortium:
    """Three hospitals that hold their own cases, and a coordinator; nothing runs yet."""
    study_file, _ = write_study(folder, text)
    made = Consortium(folder, tuple(sorted(N_CASES)), f"127.0.0.1:{free_port()}", Separation("folders"))
    made.coordinator.mkdir()
    for name in made.hospitals:
        home = made.hospital(name)
        home.mkdir(parents=True)
        lines = cohort.cases.read_text().splitlines()
        own = [line for line in lines[1:] if f",{name}," in line]
        (home / "cases.csv").write_text("\n".join([lines[0], *own]) + "\n")
        for line in own:
            case_id = line.split(",")[0]
            shutil.copytree(cohort.data / case_id, home / case_id)
    made.provision(study_file, minimum_cases=2)
    return made


@pytest.fixture
def parties() -> Iterator[Parties]:
    with Parties(Separation("folders")) as running:
        yield running


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
    journal = JsonLines(consortium.run_folder / "events.jsonl")
    end = time.monotonic() + END_S
    while sum(line["event"] == "round" for line in journal.read()) < n:
        consortium.require_running(parties.ended())
        assert time.monotonic() < end, last_lines(consortium.coordinator / "output.log", 20)
        time.sleep(0.002)


def test_flower_and_one_process_give_the_same_bits(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    start_all(consortium, parties)
    assert wait_for_end(consortium, parties) == in_process
    assert (consortium.run_folder / "report.html").stat().st_size > 0


@pytest.mark.parametrize("rounds", [1, 4])
def test_killed_coordinator_resumes_to_the_same_bits(
    consortium: Consortium, parties: Parties, in_process: dict[str, str], rounds: int
) -> None:
    start_all(consortium, parties)
    wait_for_rounds(consortium, parties, rounds)
    killed = parties.running.pop(COORDINATOR)
    killed.kill()
    killed.wait()
    journal = list(JsonLines(consortium.run_folder / "events.jsonl").read())
    assert journal[-1]["event"] != "finished"
    consortium.start_coordinator(parties, resume=True)
    assert wait_for_end(consortium, parties) == in_process


def test_a_backup_restored_elsewhere_resumes_to_the_same_bits(
    consortium: Consortium, parties: Parties, in_process: dict[str, str], tmp_path: Path
) -> None:
    """A copy made while the study runs, put onto another machine of the same name (here: the same port)."""
    start_all(consortium, parties)
    wait_for_rounds(consortium, parties, 2)
    elsewhere = replace(consortium, folder=tmp_path / "elsewhere")
    shutil.copytree(consortium.coordinator, elsewhere.coordinator, ignore=shutil.ignore_patterns(f"{PARTIAL}*"))
    wait_for_rounds(consortium, parties, 4)
    lost = parties.running.pop(COORDINATOR)
    lost.kill()
    lost.wait()
    shutil.rmtree(consortium.coordinator)
    elsewhere.start_coordinator(parties, resume=True)
    assert wait_for_end(elsewhere, parties) == in_process


def test_killed_hospital_comes_back_to_the_same_bits(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    start_all(consortium, parties)
    wait_for_rounds(consortium, parties, 2)
    killed = parties.running.pop("north")
    killed.kill()
    killed.wait()
    consortium.start_hospital(parties, "north")
    assert wait_for_end(consortium, parties) == in_process


def test_nothing_of_a_patient_is_in_what_the_coordinator_holds(consortium: Consortium, parties: Parties) -> None:
    start_all(consortium, parties)
    wait_for_end(consortium, parties)
    cases = {
        path.name for name in consortium.hospitals for path in consortium.hospital(name).iterdir() if path.is_dir()
    }
    ids = {name for name in cases if name[0] in "ENS" and name[1:].isdigit()}
    assert len(ids) == sum(N_CASES.values())
    held = b"".join(path.read_bytes() for path in consortium.coordinator.rglob("*") if path.is_file())
    leaked = [i for i in ids if i.encode() in held]
    assert not leaked
    assert str(consortium.hospital("east")).encode() not in held


def test_queue_runs_good_studies_and_sets_bad_ones_aside(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    home = consortium.coordinator
    parties.start(COORDINATOR, 0, ["coordinator", "start", "--home", ".", "--listen", consortium.address], folder=home)
    for name in consortium.hospitals:
        consortium.start_hospital(parties, name)
    (home / "queue").mkdir()
    (home / "queue" / "bad.toml").write_text("title = 3\n")
    shutil.copyfile(home / "study.toml", home / "queue" / "good.toml")
    end = time.monotonic() + END_S
    while list((home / "queue").iterdir()):
        consortium.require_running(parties.ended())
        assert time.monotonic() < end, last_lines(home / "output.log", 20)
        time.sleep(0.1)
    assert [path.name for path in (home / "failed").iterdir()] == ["bad.toml"]
    assert [path.name for path in (home / "done").iterdir()] == ["good.toml"]
    (folder,) = (home / "runs").iterdir()
    assert final_digests(folder, load(home / "study.toml", StudyConfig)) == in_process
