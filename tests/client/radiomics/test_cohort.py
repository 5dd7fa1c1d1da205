"""Cohorts: cache, processes, bad cases, a killed run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.ingest.nifti import write_volume
from client.radiomics.cli import app
from client.radiomics.cohort import CohortCase, extract_cohort, read_cases
from client.radiomics.extractor import feature_names
from client.radiomics.settings import preset
from common.errors import Code, ConfigError
from tests.client.radiomics.conftest import scene

N_FAST = len(feature_names(preset("fast")))


def write_cases(folder: Path, n: int, *, shape: tuple[int, int, int] = (12, 16, 17)) -> tuple[CohortCase, ...]:
    for number in range(n):
        case = folder / f"case_{number}"
        case.mkdir(parents=True)
        image, roi = scene(number, shape, radii=(3, 5, 5))
        write_volume(image, case / "CT_image.nii.gz")
        write_volume(roi, case / "CT_mask.nii.gz")
        for path in case.iterdir():
            os.utime(path, (1e9, 1e9))  # long unchanged: their digests may be remembered
    return read_cases(folder)


def test_rows_are_read_back_and_follow_the_input(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 3)
    first = list(extract_cohort(cases, preset("fast"), cache=tmp_path / "cache", n_processes=1))
    assert [result.from_cache for result in first] == [False] * 3
    assert all(result.rows.count("\n") == N_FAST for result in first)
    again = list(extract_cohort(cases, preset("fast"), cache=tmp_path / "cache", n_processes=1))
    assert [(r.case_id, r.rows) for r in again] == [(r.case_id, r.rows) for r in first]
    assert all(result.from_cache for result in again)
    image, _ = scene(9, (12, 16, 17))
    write_volume(image, cases[1].image)
    changed = {
        r.case_id: r.from_cache for r in extract_cohort(cases, preset("fast"), cache=tmp_path / "cache", n_processes=1)
    }
    assert changed == {cases[0].case_id: True, cases[1].case_id: False, cases[2].case_id: True}
    other = preset("fast").model_copy(update={"groups": ("stat",)})
    assert not any(r.from_cache for r in extract_cohort(cases, other, cache=tmp_path / "cache", n_processes=1))


def test_processes_give_the_rows_of_one_process(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 3)
    before = dict(os.environ)
    alone = {r.case_id: r.rows for r in extract_cohort(cases, preset("fast"), cache=tmp_path / "a", n_processes=1)}
    together = {r.case_id: r.rows for r in extract_cohort(cases, preset("fast"), cache=tmp_path / "b", n_processes=2)}
    assert alone == together
    assert dict(os.environ) == before


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 2)
    _, roi = scene()
    write_volume(roi.with_array(np.zeros_like(roi.array)), cases[0].roi)
    gone = CohortCase("gone", tmp_path / "none.nii.gz", cases[1].roi)
    absent = CohortCase("absent", cases[1].image, cases[1].roi, label=3)
    results = {
        r.case_id: r
        for r in extract_cohort((*cases, gone, absent), preset("fast"), cache=tmp_path / "c", n_processes=1)
    }
    codes = {name: result.error.code if result.error else None for name, result in results.items()}
    assert codes == {
        cases[0].case_id: Code.ROI_EMPTY,
        cases[1].case_id: None,
        "gone": Code.FILE_MISSING,
        "absent": Code.ROI_LABEL_ABSENT,
    }


def test_a_damaged_row_file_is_not_believed(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 1)
    first = next(extract_cohort(cases, preset("fast"), cache=tmp_path / "cache", n_processes=1))
    kept = next((tmp_path / "cache").glob("*/*.csv"))
    kept.write_text(kept.read_text()[:-40])
    again = next(extract_cohort(cases, preset("fast"), cache=tmp_path / "cache", n_processes=1))
    assert (again.from_cache, again.rows) == (False, first.rows)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 5, shape=(16, 40, 41))
    program = (
        "import sys; from pathlib import Path\n"
        "from client.radiomics.cohort import extract_cohort, read_cases\n"
        "from client.radiomics.settings import preset\n"
        "data, cache = map(Path, sys.argv[1:])\n"
        "list(extract_cohort(read_cases(data), preset('pyradiomics'), cache=cache, n_processes=1))\n"
    )
    cache = tmp_path / "cache"
    run = subprocess.Popen([sys.executable, "-c", program, tmp_path / "data", cache], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 60
    while len(list(cache.glob("*/*.csv"))) < 2 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    results = list(extract_cohort(cases, preset("pyradiomics"), cache=cache, n_processes=1))
    n_kept = sum(result.from_cache for result in results)
    assert n_kept >= 2
    fresh = {
        r.case_id: r.rows for r in extract_cohort(cases, preset("pyradiomics"), cache=tmp_path / "new", n_processes=1)
    }
    assert {r.case_id: r.rows for r in results} == fresh


def test_manifests(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 1)
    manifest = tmp_path / "cases.csv"
    manifest.write_text("case_id,image,roi,label\nA,data/case_0/CT_image.nii.gz,data/case_0/CT_mask.nii.gz,1\n")
    assert read_cases(manifest) == (CohortCase("A", cases[0].image, cases[0].roi, 1),)
    manifest.write_text("case_id,image,roi,label\nA,,x,1\nB,x,y,zero\n")
    with pytest.raises(ConfigError) as caught:
        read_cases(manifest)
    assert len(caught.value.faults) == 2
    manifest.write_text("id,image\n")
    with pytest.raises(ConfigError, match="column case_id is missing"):
        read_cases(manifest)
    manifest.write_text("case_id,image,roi\nA,x,y\nA,x,y\n")
    with pytest.raises(ConfigError, match="given twice"):
        read_cases(manifest)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no case found"):
        read_cases(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no such file"):
        read_cases(tmp_path / "none")


def test_command_line(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 2)
    runner = CliRunner()
    one = tmp_path / "one.csv"
    result = runner.invoke(app, [str(cases[0].image), str(cases[0].roi), "--preset", "fast", "--out", str(one)])
    assert result.exit_code == 0, result.output
    lines = one.read_text().splitlines()
    assert lines[0] == "feature,ibsi_tag,aggregation,value,unit"
    assert len(lines) == N_FAST + 1
    many = tmp_path / "many.csv"
    arguments = [str(tmp_path / "data"), "--preset", "fast", "--out", str(many), "--processes", "1"]
    assert runner.invoke(app, arguments).exit_code == 0
    table = many.read_text()
    assert table.startswith("case_id,feature,ibsi_tag,aggregation,value,unit\n")
    assert table.count("\n") == 2 * N_FAST + 1
    assert lines[1] in table
    again = runner.invoke(app, arguments)
    assert "2 from the cache" in again.output
    assert many.read_text() == table


def test_command_line_faults(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 1)
    runner = CliRunner()
    out = tmp_path / "out.csv"
    for arguments, word in [
        ([str(cases[0].image)], "ROI"),
        ([str(cases[0].image), str(cases[0].roi), "--preset", "none"], "no preset"),
        ([str(cases[0].image), str(cases[0].roi), "--label", "4", "--preset", "fast"], "label 4"),
        ([str(tmp_path / "none"), "--preset", "fast"], "no such file"),
    ]:
        result = runner.invoke(app, [*arguments, "--out", str(out)])
        assert result.exit_code == 1
        assert word in result.output.replace("\n", " ")
        assert not out.exists()


def test_catalogue_and_presets_are_printed() -> None:
    runner = CliRunner()
    text = runner.invoke(app, ["catalogue"]).output
    assert text.count("\n") == 169 + 107 + 1
    assert "cm_joint_max,Joint maximum,Co-occurrence matrix,cm_joint_max,GYBY" in text
    assert "ibsi-e" in runner.invoke(app, ["presets"]).output
    listing = runner.invoke(app, ["--help"]).output
    assert all(name in listing for name in ("extract", "catalogue", "ibsi", "robustness"))
    assert "--perturbed-by" in runner.invoke(app, ["robustness", "--help"]).output
