"""A whole study's JSON log: all lines whole, and nothing of a patient, a path or an exception's text in them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

from common.logs import JsonLog
from server.opening import open_run
from simulations.consortium import COORDINATOR
from simulations.parties import Parties
from simulations.run import Cohort, simulate
from tests.over_flower import laid_out, wait_for_end
from tests.small_study import N_CASES, STUDY, write_cohort, write_study

KEYS = {"time", "level", "event", "process", "study", "round"}


def test_the_log_of_a_run_names_no_case_no_path_and_no_exception(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "patients")
    (cohort.data / "E003" / "ct.nii.gz").unlink()
    (cohort.data / "N004" / "roi.nii.gz").write_bytes(b"no image")
    study_file, study = write_study(tmp_path)
    stream = io.StringIO()
    opened = open_run(study_file, tmp_path / "run", resume=False, listener=JsonLog("coordinator", stream).journal)
    simulate(study, cohort, out=opened.folder, journal=opened.journal, baselines=False)
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) >= KEYS for line in lines)
    assert {line["study"] for line in lines} == {"small"}
    assert {line["round"] for line in lines if line["event"] == "round"} == {1, 2, 3}
    cases = [f"{site[0].upper()}{number:03d}" for site, n in N_CASES.items() for number in range(n)]
    assert [case for case in cases if case in text] == []
    for told in (str(tmp_path), "patients", ".nii", "ct.nii.gz", "Traceback", "No such file", "no image"):
        assert told not in text


def test_a_command_that_fails_says_so_in_one_json_line(tmp_path: Path) -> None:
    home = tmp_path / "patient-P0042"
    command = ["coordinator", "start", "--home", str(home), "--listen", "127.0.0.1:0", "--log-format", "json"]
    done = subprocess.run([sys.executable, "-m", "simulations", *command], capture_output=True, text=True, check=False)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert (line["event"], line["exception"], line["level"]) == ("ended", "StateError", "error")
    assert "P0042" not in done.stdout + done.stderr


def test_real_processes_with_json_logs_name_nobody_and_no_place(
    cohort: Cohort, parties: Parties, tmp_path: Path
) -> None:
    """A study over Flower in folders that bear a patient's name, with files that are missing, damaged or wrong."""
    consortium = laid_out(cohort, tmp_path / "MUELLER^ANNA", STUDY)
    east, north = consortium.hospital("east"), consortium.hospital("north")
    (east / "E003" / "ct.nii.gz").unlink()
    (north / "N004" / "roi.nii.gz").write_bytes(b"no image")
    with (north / "cases.csv").open("a") as file:
        file.write("MUELLER^ANNA 1949,north,perhaps,seventy\n")
    as_json = ("--log-format", "json")
    parties.start(
        COORDINATOR,
        0,
        ["coordinator", "run", "study.toml", "--home", ".", "--out", "run", "--listen", consortium.address, *as_json],
        folder=consortium.coordinator,
    )
    for number, name in enumerate(consortium.hospitals, start=1):
        parties.start(name, number, ["site", "start", "site.toml", *as_json], folder=consortium.hospital(name))
    wait_for_end(consortium, parties)
    parties.stop()
    cases = [f"{site[0].upper()}{number:03d}" for site, n in N_CASES.items() for number in range(n)]
    for folder in (consortium.coordinator, *map(consortium.hospital, consortium.hospitals)):
        text = (folder / "output.log").read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert len(lines) >= 3
        assert all(set(line) >= KEYS for line in lines)
        if folder != consortium.coordinator:  # whose results stand on standard output
            assert len(lines) == len(text.splitlines())
        found = [word for word in (*cases, "MUELLER", str(tmp_path), ".nii", "Traceback", "seventy") if word in text]
        assert found == []
