from __future__ import annotations

import csv
import pickle
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from client.imaging import apply
from client.ingest.manifest import CaseRow, ImagePaths, Manifest
from client.ingest.nifti import write_volume
from client.quality import CaseQuality, image_quality, report_site, survey_case, write_quality_report
from client.quality.findings import find, missing_clinical, modified_z
from client.quality.measure import curve, measure_geometry, measure_roi
from client.quality.pictures import OUTLINE, slice_picture
from common.config import imaging as config
from common.config.study import ImageConfig, StudyConfig
from common.errors import CaseError, Code
from common.volume import Volume
from tests.client.imaging.cases import case, lesion_mask, volume

SARCOMA = Path(__file__).parents[3] / "../shared/data/sts"
STEPS = (config.Resample(spacing_mm=(2.0, 2.0, 2.0)), config.ZScore(over="body"))


def quality(i=0, *, steps=STEPS, clinical=None, change=None, **options):
    before = case(seed=i, **options)
    before = before if change is None else change(before)
    after = before
    for step in steps:
        after = apply(step, after)
    measured = image_quality(before, after if steps else None, image="mr")
    return CaseQuality(f"patient-{i:03d}", {"mr": measured}, clinical or {"age": 50.0 + i})


def with_roi(array):
    return lambda subject: replace(subject, roi=subject.roi.with_array(array))


class Tags(HTMLParser):
    """Collects every address that the page would fetch, and checks that tags close."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.names = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(path):
    parser = Tags()
    parser.feed(path.read_text())
    assert parser.open == []
    return parser


def test_the_page_is_one_file_without_ids_or_paths(tmp_path):
    secret = CaseError("patient-777", "cannot read /archive/patient-777/scan.nii", code=Code.FILE_UNREADABLE)
    found = write_quality_report([quality(i) for i in range(3)], [secret, secret], tmp_path / "q.html", title="north")
    text = (tmp_path / "q.html").read_text()
    visible = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    for word in ("patient", "archive", "777", ".nii", str(tmp_path)):
        assert word not in visible.replace("patient's right", "").replace("patients' images", "")
    parser = page(tmp_path / "q.html")
    assert all(address.startswith("data:image/png;base64,") for address in parser.addresses)
    assert "script" not in parser.names
    assert parser.names.count("figure") == 6
    assert "file unreadable" in text
    assert found == find([quality(i) for i in range(3)])
    assert [path.name for path in tmp_path.iterdir()] == ["q.html"]


def test_counts_add_up_and_order_is_that_of_ids(tmp_path):
    cases = [quality(i) for i in (2, 0, 1)]
    write_quality_report(iter(cases), [CaseError("x", "y", code=Code.ROI_EMPTY)], tmp_path / "a.html", title="north")
    write_quality_report(cases[::-1], [CaseError("x", "y", code=Code.ROI_EMPTY)], tmp_path / "b.html", title="north")
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    tiles = re.findall(r"<b>(\d+)</b>([a-z ]+)<", text)
    assert {name: int(n) for n, name in tiles} | {"warnings": 0, "notes": 0} == {
        "cases listed": 4, "usable": 3, "left out": 1, "warnings": 0, "notes": 0
    }  # fmt: skip


def test_a_title_is_text_not_markup(tmp_path):
    write_quality_report([quality()], [], tmp_path / "q.html", title="<script>alert(1)</script>")
    assert "script" not in page(tmp_path / "q.html").names


def test_no_usable_case_still_gives_a_page(tmp_path):
    write_quality_report([], [CaseError("x", "y", code=Code.ROI_EMPTY)], tmp_path / "q.html", title="north")
    assert "roi empty" in (tmp_path / "q.html").read_text()
    page(tmp_path / "q.html")


def test_duplicates_are_found_by_voxels():
    cases = [quality(0), quality(1), replace(quality(0), case_id="other")]
    warnings = [finding for finding in find(cases) if "same voxels" in finding.text]
    assert [finding.cases for finding in warnings] == [(1, 3)]


def test_an_outlier_is_named_and_an_even_cohort_is_not():
    even = [quality(i, steps=()) for i in range(8)]
    assert not [finding for finding in find(even) if "score" in finding.text]
    odd = [*even, quality(9, steps=(), lean=900.0)]
    named = {finding.cases for finding in find(odd) if "score" in finding.text}
    assert named == {(9,)}


def test_few_cases_have_no_outliers():
    few = [quality(i, steps=()) for i in range(3)] + [quality(9, steps=(), lean=900.0)]
    assert not [finding for finding in find(few) if "score" in finding.text]


def test_modified_z_is_the_definition():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    # Iglewicz and Hoaglin 1993: 0.6745 (x - median) / MAD, here median 3 and MAD 1
    np.testing.assert_allclose(modified_z(values, smallest_spread=0), 0.6745 * (values - 3), rtol=1e-4)
    np.testing.assert_array_equal(modified_z(np.ones(4), smallest_spread=0), np.zeros(4))


def test_another_protocol_is_a_note():
    cases = [quality(i, steps=()) for i in range(3)] + [quality(5, steps=(), spacing_mm=(3.0, 1.5, 1.5))]
    (note,) = [finding for finding in find(cases) if "spacing" in finding.text]
    assert (note.level, note.cases) == ("note", (4,))
    assert note.text == "spacing 1.5 x 1.5 x 3 mm; 3 cases have spacing 1 x 1 x 3 mm"


def test_odd_rois_are_named():
    two = lesion_mask()
    two[:, :, 24:27] = False
    hollow = lesion_mask()
    hollow[7, 18, 25] = False
    small = np.zeros_like(two)
    small[3, 10:12, 10:12] = True
    border = np.roll(lesion_mask(), 7, axis=0) & (np.arange(14) >= 7)[:, None, None]
    cases = [quality(i, steps=(), change=with_roi(array)) for i, array in enumerate((two, hollow, small, border))]
    said = {(finding.cases, finding.text) for finding in find(cases)}
    assert ((1,), "ROI of several parts") in said
    assert ((2,), "ROI with enclosed holes") in said
    assert ((3,), "ROI of fewer than 64 voxels") in said
    assert ((3,), "ROI in one slice only") in said
    assert ((4,), "ROI touches the border of the image") in said


def test_clipping_is_a_warning():
    def clipped(subject):
        image = subject.images["mr"]
        return replace(subject, images={"mr": image.with_array(np.minimum(image.array, np.float32(305)))})

    cases = [quality(0, steps=()), quality(1, steps=(), change=clipped)]
    assert [finding.cases for finding in find(cases) if "extreme intensity" in finding.text] == [(2,)]


def test_missing_clinical_values_are_listed():
    cases = [quality(i, clinical={"age": np.nan if i == 1 else 60.0, "sex=f": 1.0}) for i in range(3)]
    assert missing_clinical(cases) == {"age": (2,), "sex=f": ()}


def test_geometry_in_words():
    axial = measure_geometry(volume(spacing_mm=(3.0, 2.0, 1.0)))
    assert (axial.shape, axial.spacing_mm, axial.plane) == ((44, 40, 14), (1.0, 2.0, 3.0), "axial")
    assert (axial.left_handed, axial.tilt_deg, axial.ratio) == (False, 0.0, 3.0)
    angle = np.deg2rad(10)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    base = volume()
    tilted = Volume.from_geometry(base.array, spacing_mm=base.spacing_mm, direction=turn @ base.direction)
    assert measure_geometry(tilted).tilt_deg == pytest.approx(10)
    sagittal = Volume(np.transpose(base.array, (2, 0, 1)), base.affine[:, [2, 0, 1, 3]])
    assert measure_geometry(sagittal).plane == "sagittal"
    mirrored = base.affine.copy()
    mirrored[:3, 0] *= -1
    assert measure_geometry(Volume(base.array, mirrored)).left_handed


def test_roi_volume_and_slices():
    subject = case()
    measured = measure_roi(subject.images["mr"], subject.roi)
    assert measured.volume_ml == pytest.approx(lesion_mask().sum() * 3.0 / 1000)
    assert measured.n_slices == 5
    assert (measured.n_parts, measured.n_holes, measured.touches_border) == (1, 0, False)
    assert measured.mean == pytest.approx(450, abs=2)


def test_a_curve_is_a_density():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    found = curve(values)
    width = found.centres[1] - found.centres[0]
    assert found.density.sum() * width == pytest.approx(1, abs=1e-4)
    assert curve(np.full(10, 3.0)).centres.tolist() == [3.0]


def test_the_picture_shows_the_roi_where_it_is(tmp_path):
    """An ROI at the patient's left, in front: on the page's right, at the top; whatever the order of the voxels."""
    array = np.zeros((10, 30, 40), np.float32)
    roi = np.zeros(array.shape, np.bool_)
    roi[6, 2:8, 30:38] = True  # y small: front; x large: left
    places = []
    for flip in (False, True):
        image = Volume.from_geometry(array, spacing_mm=(4.0, 1.0, 1.0))
        mask = image.with_array(roi)
        if flip:
            affine = image.affine.copy()
            affine[:3, 3] += affine[:3, 2] * 39
            affine[:3, 2] *= -1
            image, mask = Volume(array[..., ::-1], affine), Volume(roi[..., ::-1], affine)
        picture = slice_picture(image, mask)
        assert (picture.slice_number, picture.n_slices) == (7, 10)
        (tmp_path / "a.png").write_bytes(picture.png)
        pixels = (matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).round()
        hit = np.argwhere((pixels == OUTLINE).all(axis=2))
        places.append(hit.mean(axis=0) / pixels.shape[:2])
    np.testing.assert_allclose(places[0], places[1], atol=1e-6)
    np.testing.assert_allclose(places[0], [5 / 30, 34 / 40], atol=0.02)


def study(steps=()):
    image = ImageConfig(name="mr", modality="MR", image="{case_id}.nii.gz", roi="{case_id}_roi.nii.gz", steps=steps)
    return StudyConfig.model_construct(images=(image,))


def row(folder, case_id="c1"):
    paths = ImagePaths(folder / f"{case_id}.nii.gz", folder / f"{case_id}_roi.nii.gz")
    return CaseRow(case_id=case_id, site="north", images={"mr": paths}, clinical={"age": 61.0}, outcome=(0.0,))


def test_a_row_is_surveyed_as_the_study_reads_it(tmp_path):
    subject = case()
    write_volume(subject.images["mr"], tmp_path / "c1.nii.gz")
    write_volume(subject.roi, tmp_path / "c1_roi.nii.gz")
    found = survey_case(row(tmp_path), study(STEPS)).images["mr"]
    assert [line.split(":")[0] for line in found.steps] == ["resample", "zscore"]
    assert "mean = " in found.steps[1]
    assert survey_case(row(tmp_path), study()).images["mr"].picture_after is None
    # landmarks are not learned yet: the survey stops before the step that waits for them
    waiting = survey_case(row(tmp_path), study((*STEPS, config.Nyul()))).images["mr"]
    assert [line.split(":")[0] for line in waiting.steps] == ["resample", "zscore"]


def test_a_row_that_cannot_be_read_has_a_code(tmp_path):
    subject = case()
    write_volume(subject.images["mr"], tmp_path / "c1.nii.gz")
    moved = subject.roi.affine.copy()
    moved[:3, 3] += 4
    write_volume(Volume(subject.roi.array, moved), tmp_path / "c1_roi.nii.gz")
    with pytest.raises(CaseError) as caught:
        survey_case(row(tmp_path), study())
    assert caught.value.code is Code.GRID_MISMATCH


@pytest.mark.skipif(not SARCOMA.is_dir(), reason="shared/data/sts is not here")
def test_real_images_of_three_modalities(tmp_path):
    """Three patients of the soft-tissue-sarcoma collection: nobody is left out, and the body holds the tumour."""
    with (SARCOMA / "cases.csv").open(newline="") as file:
        ids = [entry["case_id"] for entry in csv.DictReader(file)][:3]
    images = tuple(
        ImageConfig(
            name=name, modality=modality,
            image=f"nifti/{{case_id}}/{file}_image.nii.gz", roi=f"nifti/{{case_id}}/{file}_mask.nii.gz",
        )
        for name, modality, file in (("ct", "CT", "CT"), ("pet", "PET", "PET"), ("mr", "MR", "MR_T1"))
    )  # fmt: skip
    whole = StudyConfig.model_construct(images=images)
    cases = []
    for case_id in ids:
        paths = {
            image.name: ImagePaths(
                SARCOMA / image.image.format(case_id=case_id), SARCOMA / image.roi.format(case_id=case_id)
            )
            for image in images
        }
        cases.append(survey_case(CaseRow(case_id, "north", paths, {}, (0.0,)), whole))
    write_quality_report(cases, [], tmp_path / "q.html", title="north")
    assert "STS_" not in (tmp_path / "q.html").read_text()
    for measured in cases:
        volumes = [q.roi.volume_ml for q in measured.images.values()]
        assert max(volumes) / min(volumes) < 1.2  # one tumour, drawn on three grids


def test_what_is_kept_of_a_case_crosses_processes():
    one = quality()
    other = pickle.loads(pickle.dumps(one))
    assert other.images["mr"].digest == one.images["mr"].digest
    assert other.images["mr"].picture_after.png == one.images["mr"].picture_after.png


def test_a_site_is_reported_whatever_single_cases_do(tmp_path):
    for i in range(3):
        write_volume(volume(seed=i), tmp_path / f"c{i}.nii.gz")
        write_volume(case().roi, tmp_path / f"c{i}_roi.nii.gz")
    (tmp_path / "c1.nii.gz").write_bytes(b"")
    config_of_study = StudyConfig.model_construct(images=study(STEPS).images)
    listed = Manifest(
        rows=tuple(row(tmp_path, f"c{i}") for i in range(3)), faults=(CaseError("c9", "x", code=Code.CASE_DUPLICATE),)
    )
    done = []
    report_site(
        listed,
        config_of_study,
        tmp_path / "q.html",
        title="north",
        processes=1,
        on_case=lambda: done.append(1),
    )
    text = (tmp_path / "q.html").read_text()
    assert len(done) == 3
    assert "<b>4</b>cases listed" in text
    assert "<b>2</b>usable" in text
    assert "file unreadable" in text
    assert "case duplicate" in text
