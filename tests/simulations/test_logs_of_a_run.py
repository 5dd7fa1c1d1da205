"""A whole study's JSON log: all lines whole, and nothing of a patient, a path or an exception's text in them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

from common.logs import JsonLog
from server.opening import open_run
from simulations.run import simulate
from tests.small_study import N_CASES, write_cohort, write_study

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
