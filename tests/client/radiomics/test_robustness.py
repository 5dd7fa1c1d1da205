from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from client.ingest.nifti import write_volume
from client.radiomics.cohort import read_cases
from client.radiomics.extractor import feature_names
from client.radiomics.robustness import grade, measure, measure_cohort
from client.radiomics.settings import preset
from common.config.robustness import RobustnessConfig
from common.errors import CaseError, Code
from tests.client.imaging.cases import case

SETTINGS = preset("fast").model_copy(update={"groups": ("morph", "stat")})
CONFIG = RobustnessConfig(rotations_deg=(-5.0, 5.0), translations=(0.25,), noise_repetitions=1)


def made(i):
    rng = np.random.default_rng(i)
    return case(seed=i, lean=rng.uniform(200, 400), lesion=rng.uniform(450, 900))


@pytest.fixture
def listed(tmp_path):
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "image", "roi"])
        for i in range(4):
            write_volume(made(i).images["mr"], tmp_path / f"{i}.nii.gz")
            write_volume(made(i).roi, tmp_path / f"{i}_roi.nii.gz")
            writer.writerow([f"case-{i}", f"{i}.nii.gz", f"{i}_roi.nii.gz"])
    return tmp_path / "cases.csv"


def test_one_case_is_measured_under_every_perturbation():
    subject = made(0)
    found = measure(subject.images["mr"], subject.roi, SETTINGS, CONFIG, seed=0, case_id="c1")
    assert found.shape == (CONFIG.n_perturbations, len(feature_names(SETTINGS)))
    assert np.isfinite(found).all()
    again = measure(subject.images["mr"], subject.roi, SETTINGS, CONFIG, seed=0, case_id="c1")
    np.testing.assert_array_equal(found, again)
    # growth and erosion are in the volume; rotation and translation alone hardly
    volume = found[:, feature_names(SETTINGS).index("morph_volume")]
    assert volume[1::2].min() > volume[0::2].max()


def test_empty_roi_and_other_grid_have_codes():
    subject = made(0)
    empty = subject.roi.with_array(np.zeros(subject.roi.shape, np.bool_))
    moved = subject.roi.affine.copy()
    moved[0, 3] += 5
    far = replace(subject.roi, affine=moved)
    for roi, code in ((empty, Code.ROI_EMPTY), (far, Code.GRID_MISMATCH)):
        with pytest.raises(CaseError) as caught:
            measure(subject.images["mr"], roi, SETTINGS, CONFIG, seed=0, case_id="c1")
        assert caught.value.code is code


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failing_case_is_named_and_the_rest_goes_on(listed, tmp_path, processes):
    (tmp_path / "2.nii.gz").unlink()
    result = measure_cohort(read_cases(listed), SETTINGS, CONFIG, seed=0, processes=processes, on_case=lambda: None)
    assert result.n_cases == 3
    assert [(fault.case_id, fault.code) for fault in result.faults] == [("case-2", Code.FILE_MISSING)]
    assert len(result.reliability.features) + len(result.reliability.undefined) == len(feature_names(SETTINGS))


def test_processes_do_not_change_the_numbers(listed):
    one, two = (
        measure_cohort(read_cases(listed), SETTINGS, CONFIG, seed=0, processes=n, on_case=lambda: None) for n in (1, 2)
    )
    assert one.reliability == two.reliability


@pytest.mark.filterwarnings("ignore:.*Click 9:DeprecationWarning")  # typer 0.20 is older than click 8.5
def test_the_command_writes_a_row_a_feature(listed, tmp_path, capsys):
    import typer

    from client.radiomics.robustness_command import robustness

    (tmp_path / "small.toml").write_text("translations = [0.5]\nnoise_repetitions = 0\n")
    with pytest.raises(typer.Exit) as done:
        robustness(
            listed, preset="fast", out=tmp_path / "icc.csv", perturbed_by=tmp_path / "small.toml", seed=0, processes=1
        )
    assert done.value.exit_code == 0
    with (tmp_path / "icc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["feature"] for row in rows) == sorted(feature_names(preset("fast")))
    mean = next(row for row in rows if row["feature"] == "stat_mean")
    assert float(mean["lower"]) <= float(mean["icc"]) <= float(mean["upper"]) <= 1
    assert (mean["n_cases"], mean["n_repeats"]) == ("4", "4")
    assert "kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lower", "word"), [(0.95, "excellent"), (0.9, "excellent"), (0.8, "good"), (0.6, "moderate"), (-0.3, "poor")]
)
def test_grades(lower, word):
    assert grade(lower) == word


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rotations_deg": (5.0,), "translations": (0.5,), "volume_changes": (0.0,)}, "at least 2"),
        ({"rotations_deg": (5.0, 5.0)}, "given twice"),
        ({"minimum_icc": 1.5}, "less than 1"),
    ],
)
def test_impossible_configurations(values, match):
    with pytest.raises(ValueError, match=match):
        RobustnessConfig(**values)
