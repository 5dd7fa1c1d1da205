"""Real files with one fault each: the case is left out under its code, and the rest of the site goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.case_cache import CaseCache
from client.imaging.case import AppliedStep
from client.ingest.manifest import CaseRow, ImagePaths, read_manifest
from client.ingest.nifti import write_volume
from client.preparation import prepare_case, settings_digest, study_feature_names
from client.worklist import Worklist
from common.config.study import StudyConfig
from common.errors import CaseError, Code
from common.volume import Volume
from tests.client.cases import STUDY, nodule, row, study, write_array, write_case, write_manifest


def prepared_row(folder: Path, case_id: str = "p1") -> CaseRow:
    paths = ImagePaths(folder / "ct.nii.gz", folder / "roi.nii.gz")
    return CaseRow(case_id, "north", {"ct": paths}, {"age": 60.0, "sex=m": 0.0}, (0.0,))


def with_voxel(value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        image, _ = nodule("p1")
        array = image.array.copy()
        array[0, 0, 0] = value
        write_volume(image.with_array(array), folder / "ct.nii.gz")

    return damage


def cut(folder: Path) -> None:
    path = folder / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def no_image(folder: Path) -> None:
    (folder / "ct.nii.gz").write_text("this is no image")


def roi_of_other_shape(folder: Path) -> None:
    write_volume(nodule("p1", shape=(10, 12, 11))[1], folder / "roi.nii.gz")


def roi_elsewhere(folder: Path) -> None:
    _, roi = nodule("p1")
    affine = roi.affine.copy()
    affine[0, 3] += 3
    write_volume(Volume(roi.array, affine), folder / "roi.nii.gz")


def roi_of_other_spacing(folder: Path) -> None:
    _, roi = nodule("p1")
    write_volume(Volume(roi.array, roi.affine @ np.diag([1.5, 1, 1, 1])), folder / "roi.nii.gz")


def empty_roi(folder: Path) -> None:
    _, roi = nodule("p1")
    write_volume(roi.with_array(np.zeros_like(roi.array)), folder / "roi.nii.gz")


def other_label(folder: Path) -> None:
    _, roi = nodule("p1")
    write_volume(roi.with_array(2 * roi.array.astype(np.uint8)), folder / "roi.nii.gz")


def four_axes(folder: Path) -> None:
    write_array(np.zeros((3, 4, 4, 4), dtype=np.float32), folder / "ct.nii.gz")


def one_slice(folder: Path) -> None:
    write_volume(Volume.from_geometry(np.zeros((1, 8, 8), dtype=np.float32)), folder / "ct.nii.gz")


def gone(folder: Path) -> None:
    (folder / "roi.nii.gz").unlink()


FAULTS = {
    Code.FILE_UNREADABLE: [cut, no_image],
    Code.FILE_MISSING: [gone],
    Code.GRID_MISMATCH: [roi_of_other_shape, roi_elsewhere, roi_of_other_spacing],
    Code.ROI_EMPTY: [empty_roi],
    Code.ROI_LABEL_ABSENT: [other_label],
    Code.VOXELS_NOT_FINITE: [with_voxel(np.nan), with_voxel(np.inf), with_voxel(-np.inf)],
    Code.NOT_3D: [four_axes],
    Code.ONE_SLICE: [one_slice],
}


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        pytest.param(code, damage, id=f"{code}-{i}")
        for code, all_of in FAULTS.items()
        for i, damage in enumerate(all_of)
    ],
)
def test_a_damaged_case_is_left_out_under_its_code(tmp_path: Path, code: Code, damage: Callable[[Path], None]):
    folder = write_case(tmp_path, "p1")
    damage(folder)
    with pytest.raises(CaseError) as caught:
        prepare_case(prepared_row(folder), study())
    assert caught.value.code == code
    assert str(caught.value).startswith("case p1: ")


def test_the_rest_of_the_site_goes_on_and_the_counts_add_up(tmp_path: Path):
    data = tmp_path / "images"
    damages = [damage for all_of in FAULTS.values() for damage in all_of]
    rows = [row(f"bad{i}") for i in range(len(damages))] + [row("good1"), row("good2"), row("p9")]
    for i, damage in enumerate(damages):
        folder = write_case(data, f"bad{i}")
        if damage is not gone:
            damage(folder)
    for case_id in ("good1", "good2"):
        write_case(data, case_id)
    manifest = read_manifest(write_manifest(tmp_path / "cases.csv", rows), study(), data=data, site="north")
    (data / f"bad{damages.index(gone)}" / "roi.nii.gz").unlink()  # between the manifest's check and the reading
    told: list[CaseError] = []
    work = Worklist(manifest, CaseCache(tmp_path / "cache", study()), processes=1, note=told.append)
    work.advance(float("inf"))
    assert (sorted(work.done), work.pending) == (["good1", "good2"], [])
    assert len(work.done) + len(work.faults) == work.n_listed == len(rows)
    expected = [code for code, all_of in FAULTS.items() for _ in all_of]
    codes = {fault.case_id: fault.code for fault in work.faults}
    assert codes == {f"bad{i}": code for i, code in enumerate(expected)} | {"p9": Code.FILE_MISSING}
    assert told == work.faults


def test_what_is_extracted_has_the_names_of_the_study(tmp_path: Path):
    found = prepare_case(prepared_row(write_case(tmp_path, "p1")), study())
    names = study_feature_names(study())
    assert found.features.shape == (len(names),)
    assert np.isfinite(found.features).all()
    assert all(name.startswith("ct_") for name in names)
    volume = dict(zip(names, found.features, strict=True))["ct_morph_vol_approx"]
    _, roi = nodule("p1")
    assert volume == pytest.approx(roi.array.sum() * roi.voxel_volume_mm3)


def test_a_patch_has_a_channel_an_image_and_the_roi(tmp_path: Path):
    found = prepare_case(prepared_row(write_case(tmp_path, "p1")), study())
    assert found.patch is not None
    assert (found.patch.shape, found.patch.dtype) == ((2, 8, 8, 8), np.float32)
    image, roi = found.patch
    assert 0 <= image.min() < image.max() <= 1
    assert image[roi > 0.9].mean() == pytest.approx((-100 + 1000) / 1400, abs=0.05)


def test_without_a_window_a_patch_is_z_scored_and_a_flat_one_is_zero(tmp_path: Path):
    flat = study(STUDY, (", window = [-1000, 400]", ""), ('radiomics = [{ image = "ct", preset = "fast" }]', ""))
    found = prepare_case(prepared_row(write_case(tmp_path, "p1")), flat).patch
    assert found is not None
    assert found[0].mean() == pytest.approx(0, abs=1e-5)
    assert found[0].std() == pytest.approx(1, abs=1e-5)
    image, roi = nodule("p1")
    folder = write_case(tmp_path, "p2", image.with_array(np.full_like(image.array, 7.0)), roi)
    constant = prepare_case(prepared_row(folder), flat).patch
    assert constant is not None
    assert not constant[0].any()


def test_the_steps_are_on_record(tmp_path: Path):
    of = study(STUDY, ('roi = "{case_id}/roi.nii.gz"', 'roi = "{case_id}/roi.nii.gz"\nsteps = [{ kind = "round_hu" }]'))
    found = prepare_case(prepared_row(write_case(tmp_path, "p1")), of)
    assert [AppliedStep.from_json(text).kind for text in found.steps] == ["round_hu"]


def two_images(*changes: tuple[str, str]) -> StudyConfig:
    second = """
[[images]]
name = "late"
modality = "CT"
image = "{case_id}/late.nii.gz"
roi = "{case_id}/roi.nii.gz"
steps = [{ kind = "check_registration", reference = "ct", otherwise = "resample" }]

[[models]]"""
    return study(
        STUDY,
        ("[[models]]", second),
        ('{ image = "ct", preset = "fast" }', '{ image = "ct", preset = "fast" }, { image = "late", preset = "fast" }'),
        ('images = ["ct"]', 'images = ["ct", "late"]'),
        *changes,
    )


def test_an_image_on_another_grid_is_brought_to_the_one_that_the_roi_was_drawn_on(tmp_path: Path):
    folder = write_case(tmp_path, "p1")
    image, roi = nodule("p1")
    wider = Volume.from_geometry(
        np.full((14, 16, 16), -700, dtype=np.float32), spacing_mm=(2, 1.5, 1.5), origin_mm=(-13, 2, 96)
    )
    wider.array[2:-2, 2:-2, 2:-2] = image.array
    write_volume(wider, folder / "late.nii.gz")
    late = ImagePaths(folder / "late.nii.gz", folder / "roi.nii.gz")
    case = CaseRow("p1", "north", {**prepared_row(folder).images, "late": late}, {}, (0.0,))
    found = prepare_case(case, two_images())
    half = len(found.features) // 2
    np.testing.assert_allclose(found.features[half:], found.features[:half], rtol=1e-4, atol=1e-6)
    assert found.patch is not None
    np.testing.assert_allclose(found.patch[1], found.patch[0], atol=1e-4)
    assert roi.array.any()
    with pytest.raises(CaseError) as caught:
        prepare_case(case, two_images(('otherwise = "resample"', 'otherwise = "refuse"')))
    assert caught.value.code == Code.GRID_MISMATCH


@pytest.mark.parametrize(
    "change",
    [
        ('preset = "fast"', 'preset = "ct-lung"'),
        ("shape = [8, 8, 8]", "shape = [8, 8, 9]"),
        ("window = [-1000, 400]", "window = [-1000, 401]"),
        ('modality = "CT"', 'modality = "CT"\nroi_label = 2'),
        ('modality = "CT"', 'modality = "CT"\nsteps = [{ kind = "round_hu" }]'),
    ],
)
def test_the_settings_digest_feels_what_shapes_a_case(change: tuple[str, str]):
    assert settings_digest(study(STUDY, change)) != settings_digest(study())


@pytest.mark.parametrize(
    "change", [("seed = 3", "seed = 4"), ("rounds = 2", "rounds = 9"), ("maximum = 110", "maximum = 99")]
)
def test_the_settings_digest_does_not_feel_the_rest(change: tuple[str, str]):
    assert settings_digest(study(STUDY, change)) == settings_digest(study())
