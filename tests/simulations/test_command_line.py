"""The command as a person meets it: help, one-line errors with exit codes, a run with status and report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulations.run import Cohort
from tests.small_study import write_study


def fedrad(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulations", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["", "demo", "simulate", "site", "coordinator", "radiomics", "site check"])
def test_help_teaches(command: str) -> None:
    done = fedrad(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_a_study_file_with_faults_ends_with_code_2_and_all_of_them(tmp_path: Path, cohort: Cohort) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "Bad Name"\ncolour = "red"\nseed = -1\n')
    done = fedrad("simulate", bad, "--cases", cohort.cases, "--data", cohort.data, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "[a-z][a-z0-9_-]" in done.stderr  # a pattern is shown as it is, not taken for markup
    for fault in ("name", "colour: unknown key", "seed", "title: missing", "models: missing"):
        assert fault in done.stderr
    assert "Traceback" not in done.stderr


def test_run_status_report_and_refusal_to_overwrite(tmp_path: Path, cohort: Cohort) -> None:
    study, _ = write_study(tmp_path)
    out = tmp_path / "out"
    arguments = ("simulate", study, "--cases", cohort.cases, "--data", cohort.data, "--out", out, "--no-baselines")
    done = fedrad(*arguments)
    assert done.returncode == 0, done.stderr
    assert "federated" in done.stdout
    assert str(out / "report.html") in done.stdout
    again = fedrad(*arguments)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    status = fedrad("coordinator", "status", out)
    assert "finished" in status.stdout
    (out / "report.html").unlink()
    assert fedrad("coordinator", "report", out).returncode == 0
    assert (out / "report.html").stat().st_size > 10_000
    other = fedrad("coordinator", "status", tmp_path)
    assert (other.returncode, "holds no study run" in other.stderr) == (1, True)


def test_site_check_writes_the_quality_report(tmp_path: Path, cohort: Cohort) -> None:
    study, _ = write_study(tmp_path)
    rows = cohort.cases.read_text().splitlines()
    own = [row for row in rows if row.startswith("E00")]
    (tmp_path / "cases.csv").write_text("\n".join([rows[0], *own, own[0].replace("E000", "E-LOST")]) + "\n")
    site = f'site = "east"\nmanifest = "cases.csv"\ndata = "{cohort.data}"\nstate = "state"\nstudies = ["{study.name}"]'
    (tmp_path / "site.toml").write_text(site)
    done = fedrad("site", "check", tmp_path / "site.toml", "--report", tmp_path / "new" / "quality.html")
    assert done.returncode == 1, done.stderr  # a case is left out
    assert "file_missing" in done.stdout
    page = (tmp_path / "new" / "quality.html").read_text()
    assert f"<b>{len(own) + 1}</b>cases listed" in page
    assert "E00" not in page
    assert str(cohort.data) not in page
