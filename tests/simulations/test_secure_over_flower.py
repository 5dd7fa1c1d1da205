"""A masked study over real Flower processes: the bits of one process, also where a hospital dies within a session."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.journal import JsonLines
from server.opening import open_run
from simulations.consortium import Consortium, free_port, last_lines
from simulations.parties import Parties, Separation
from simulations.run import Cohort, simulate
from tests.simulations.test_over_flower import END_S, final_digests, start_all, wait_for_end
from tests.small_study import N_CASES, STUDY, write_cohort, write_study

MASKED = STUDY[: STUDY.index('[[models]]\nname = "cnn"')].replace(
    "privacy = { minimum_cases = 2 }", "privacy = { minimum_cases = 2, secure_aggregation = { most_cases = 50 } }"
)
"""One linear model on radiomics and age: what is tested is who says what to whom."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def in_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("in-process")
    study_file, study = write_study(folder, MASKED)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    return final_digests(folder / "run", study)


@pytest.fixture
def consortium(cohort: Cohort, tmp_path: Path) -> Consortium:
    study_file, _ = write_study(tmp_path, MASKED)
    made = Consortium(tmp_path, tuple(sorted(N_CASES)), f"127.0.0.1:{free_port()}", Separation("folders"))
    made.coordinator.mkdir()
    header, *rows = cohort.cases.read_text().splitlines()
    for name in made.hospitals:
        home = made.hospital(name)
        home.mkdir(parents=True)
        own = [row for row in rows if f",{name}," in row]
        (home / "cases.csv").write_text("\n".join([header, *own]) + "\n")
        for row in own:
            shutil.copytree(cohort.data / row.split(",")[0], home / row.split(",")[0])
    made.provision(study_file, minimum_cases=2)
    return made


@pytest.fixture
def parties() -> Iterator[Parties]:
    with Parties(Separation("folders")) as running:
        yield running


def answers(consortium: Consortium) -> list[str]:
    lines = JsonLines(consortium.run_folder / "events.jsonl").read()
    return [line["reply"] for line in lines if line["event"] == "answer"]


def test_masked_sums_over_flower_end_in_the_bits_of_one_process(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    """Also where a hospital is killed in the middle of a session: the sum is begun anew with fresh keys."""
    start_all(consortium, parties)
    end = time.monotonic() + END_S
    while answers(consortium).count("MaskedValues") < 2:
        consortium.require_running(parties.ended())
        assert time.monotonic() < end, last_lines(consortium.coordinator / "output.log", 20)
        time.sleep(0.002)
    killed = parties.running.pop("north")
    killed.kill()
    killed.wait()
    consortium.start_hospital(parties, "north")
    assert wait_for_end(consortium, parties) == in_process
    assert not {"StatisticSums", "LocalUpdate", "EvaluationSums"} & set(answers(consortium))
