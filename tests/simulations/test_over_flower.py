"""The same study over real Flower processes: equal to the last bit to one process, and to itself after `kill -9`."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.loading import load
from common.config.study import StudyConfig
from common.files import PARTIAL
from common.journal import JsonLines
from simulations.consortium import COORDINATOR, Consortium, last_lines
from simulations.parties import Parties
from simulations.run import Cohort
from tests.over_flower import (
    END_S,
    digests_in_process,
    final_digests,
    kill,
    laid_out,
    start_all,
    wait_for_end,
    wait_for_rounds,
)
from tests.small_study import N_CASES, ROBUSTNESS, STANDARDISED

LEARNED = f"""{STANDARDISED}{ROBUSTNESS}
[table]
combat = {{}}
selection = [{{ kind = "univariate", keep = 10 }}]

[[models]]
name = "ridge"
model = {{ kind = "ridge", penalty = 0.1 }}

[[models]]
name = "trees"
model = {{ kind = "xgboost", rounds = 3, n_bins = 8 }}
"""
"""All that is learned by questions: landmarks, robust features, harmonisation, selection, a model; and whole trees."""


@pytest.fixture(scope="module")
def in_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests_in_process(tmp_path_factory.mktemp("in-process"), cohort, LEARNED)


@pytest.fixture
def consortium(cohort: Cohort, tmp_path: Path) -> Consortium:
    return laid_out(cohort, tmp_path, LEARNED)


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
    kill(parties, COORDINATOR)
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
    kill(parties, COORDINATOR)
    shutil.rmtree(consortium.coordinator)
    elsewhere.start_coordinator(parties, resume=True)
    assert wait_for_end(elsewhere, parties) == in_process


def test_killed_hospital_comes_back_to_the_same_bits(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    start_all(consortium, parties)
    wait_for_rounds(consortium, parties, 2)
    kill(parties, "north")
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
