from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from client.imaging import AppliedStep, Case, apply, replay
from client.imaging.geometry_steps import slice_wise
from client.imaging.implementation import body_of
from client.imaging.landmarks import landmark_row, waiting_step, with_landmarks
from client.imaging.steps import IMPLEMENTATIONS
from common.config import imaging as config
from common.config.imaging import ImagingStep
from common.errors import CaseError, Code
from common.statistics.nyul import landmark_table
from common.volume import Volume
from tests.client.imaging.cases import case, lesion_mask, volume

LANDMARKS = tuple(float(x) for x in np.linspace(0, 100, len(config.NYUL_PERCENTILES)))

EXAMPLES: tuple[ImagingStep, ...] = (
    config.ToLps(),
    config.CropToRoi(margin_mm=4.0),
    config.Resample(spacing_mm=(1.5, 1.5, 2.0)),
    config.Resample(spacing_mm=(1.5, 1.5, 0.0), interpolation="cubic", margin_mm=5.0),
    config.Resample(spacing_mm=(1.0, 1.0, 1.0), interpolation="nearest", roi_threshold=0.7),
    config.RoundHu(),
    config.Window(lower=0.0, upper=400.0),
    config.Resegment(lower=300.0),
    config.Resegment(n_sigma=1.5),
    config.ZScore(over="image"),
    config.ZScore(over="body"),
    config.ZScore(over="roi"),
    config.N4(iterations=(5, 5)),
    config.Nyul(landmarks=LANDMARKS),
    config.Nyul(landmarks=LANDMARKS, over="roi"),
    config.WhiteStripe(),
    config.CheckRange(lower=-200, upper=3000),
    config.SuvCheck(maximum=1000.0),
    config.CheckRegistration(reference="mr"),
    config.Anisotropy(maximum_ratio=2.0),
)


def name_of(step):
    return step.kind


def positive(subject):
    """The case without the noise below zero that SUV cannot have."""
    return replace(
        subject, images={name: image.with_array(np.abs(image.array)) for name, image in subject.images.items()}
    )


def refused(step, subject, code):
    with pytest.raises(CaseError) as caught:
        apply(step, subject)
    assert caught.value.case_id == "c1"
    assert caught.value.code is code


def test_every_step_has_an_implementation_and_an_example():
    kinds = set(get_args(get_args(ImagingStep)[0]))
    assert set(IMPLEMENTATIONS) == kinds
    assert {type(step) for step in EXAMPLES} == kinds


@pytest.mark.parametrize("step", EXAMPLES, ids=name_of)
def test_a_step_is_recorded_and_replayed_bit_by_bit(step):
    before = positive(case())
    after = apply(step, before)
    assert [done.step for done in after.steps] == [step]
    record = [AppliedStep.from_json(done.to_json()) for done in after.steps]
    assert record == list(after.steps)
    again = replay(before, record)
    for name, image in after.images.items():
        np.testing.assert_array_equal(again.images[name].array, image.array)
        np.testing.assert_array_equal(again.images[name].affine, image.affine)
    np.testing.assert_array_equal(again.roi.array, after.roi.array)
    np.testing.assert_array_equal(again.measured_roi.array, after.measured_roi.array)
    assert again.steps == after.steps


def test_a_chain_is_replayed_bit_by_bit():
    steps = (
        config.ToLps(),
        config.N4(iterations=(5,)),
        config.Resample(spacing_mm=(2.0, 2.0, 2.0), interpolation="cubic", margin_mm=10.0),
        config.Resegment(n_sigma=2.0),
        config.ZScore(over="roi"),
        config.CropToRoi(margin_mm=2.0),
    )
    before = after = case()
    for step in steps:
        after = apply(step, after)
    again = replay(before, after.steps)
    np.testing.assert_array_equal(again.images["mr"].array, after.images["mr"].array)
    np.testing.assert_array_equal(again.measured_roi.array, after.measured_roi.array)
    # ROI z-score, before the crop that keeps every voxel of the ROI
    inside = after.images["mr"].array[after.measured_roi.array]
    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std() == pytest.approx(1, abs=1e-6)


def test_replay_uses_what_was_learned_then():
    record = apply(config.ZScore(over="image"), case()).steps
    brighter = case(lean=500.0)
    found = replay(brighter, record).images["mr"].array
    mean, std = record[0].learned["mr"]["mean"][0], record[0].learned["mr"]["std"][0]
    np.testing.assert_allclose(found, (brighter.images["mr"].array - mean) / std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", EXAMPLES, ids=name_of)
def test_the_case_before_is_unchanged(step):
    before = positive(case())
    kept = before.images["mr"].array.copy(), before.roi.array.copy()
    apply(step, before)
    np.testing.assert_array_equal(before.images["mr"].array, kept[0])
    np.testing.assert_array_equal(before.roi.array, kept[1])
    assert before.steps == ()


@pytest.mark.parametrize(
    "step", [s for s in EXAMPLES if s.kind in {"to_lps", "crop_to_roi", "round_hu", "zscore", "resample"}], ids=name_of
)
def test_doing_it_twice_is_doing_it_once(step):
    once = apply(step, case())
    twice = apply(step, once)
    assert twice.roi.shape == once.roi.shape
    np.testing.assert_allclose(twice.images["mr"].array, once.images["mr"].array, atol=2e-5)
    np.testing.assert_array_equal(twice.roi.array, once.roi.array)
    np.testing.assert_allclose(twice.roi.affine, once.roi.affine, atol=1e-9)


@pytest.mark.parametrize("over", ["image", "body", "roi"])
def test_zscore_over_each_mask(over):
    before = case()
    after = apply(config.ZScore(over=over), before)
    image = before.images["mr"]
    everywhere = np.ones(image.shape, np.bool_)
    mask = {"image": everywhere, "body": body_of(before, image), "roi": before.roi.array}[over]
    values = after.images["mr"].array[mask].astype(np.float64)
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1, abs=1e-6)


def test_resegmentation_leaves_the_shape():
    before = case()
    after = apply(config.Resegment(n_sigma=1.0), before)
    np.testing.assert_array_equal(after.roi.array, before.roi.array)
    assert 0 < after.measured_roi.array.sum() < before.roi.array.sum()
    assert after.steps[0].learned["mr"]["n_kept"][0] == after.measured_roi.array.sum()


def test_crop_keeps_places_and_the_roi():
    before = case()
    after = apply(config.CropToRoi(margin_mm=3.0), before)
    assert after.roi.array.sum() == before.roi.array.sum()
    assert after.roi.array.size < before.roi.array.size
    for one, other in ((after, before),):
        index = np.argwhere(one.roi.array)
        world = one.roi.affine[:3, :3] @ index.T + one.roi.affine[:3, 3:]
        expected = other.roi.affine[:3, :3] @ np.argwhere(other.roi.array).T + other.roi.affine[:3, 3:]
        np.testing.assert_allclose(world, expected, atol=1e-9)
    np.testing.assert_array_equal(
        after.images["mr"].array[after.roi.array], before.images["mr"].array[before.roi.array]
    )


def test_resampling_near_the_roi_gives_the_same_values():
    whole = apply(config.Resample(spacing_mm=(1.5, 1.5, 2.0), interpolation="cubic"), case())
    near = apply(config.Resample(spacing_mm=(1.5, 1.5, 2.0), interpolation="cubic", margin_mm=4.0), case())
    assert near.roi.array.size < whole.roi.array.size
    np.testing.assert_array_equal(near.images["mr"].array[near.roi.array], whole.images["mr"].array[whole.roi.array])


def test_configuration_spacing_is_x_y_z():
    after = apply(config.Resample(spacing_mm=(1.25, 1.5, 2.0)), case())
    assert after.roi.spacing_mm == pytest.approx((2.0, 1.5, 1.25))


def test_n4_takes_a_field_away():
    before = case()
    image = before.images["mr"]
    _d, h, w = np.indices(image.shape)
    field = 1 + 0.5 * (w / image.shape[2] - 0.5) + 0.3 * (h / image.shape[1] - 0.5)
    spoiled = replace(before, images={"mr": image.with_array((image.array * field).astype(np.float32))})
    after = apply(config.N4(shrink_factor=2), spoiled)
    lean = body_of(before, image) & ~lesion_mask()

    def spread(subject):
        values = subject.images["mr"].array[lean]
        return values.std() / values.mean()

    assert spread(spoiled) > 2.5 * spread(before)
    assert spread(after) < 1.5 * spread(before)


def test_nyul_brings_scanners_together():
    """Two scanners with different gains: after landmarks learned from both, equal tissue has equal intensity."""
    waiting = (config.RoundHu(), config.Nyul())
    assert waiting_step(waiting) == 1
    cases = [case(seed=i, lean=300.0 * g, lesion=450.0 * g, air=20.0 * g) for i, g in enumerate((1.0, 1.1, 2.4, 2.5))]
    rows = {f"case-{i}": landmark_row(subject, waiting, image="mr") for i, subject in enumerate(cases)}
    table = landmark_table("mr", config.NYUL_PERCENTILES, rows)
    ready = with_landmarks(waiting, tuple(float(x) for x in table.values.mean(axis=0)))
    assert waiting_step(ready) is None
    raw = [subject.images["mr"].array[subject.roi.array].mean() for subject in cases]
    for step in ready:
        cases = [apply(step, subject) for subject in cases]
    mapped = [subject.images["mr"].array[subject.roi.array].mean() for subject in cases]
    assert np.std(raw) / np.mean(raw) > 0.3
    assert np.std(mapped) / np.mean(mapped) < 0.06
    with pytest.raises(ValueError, match="learned from all sites"):
        apply(config.Nyul(), cases[0])


def test_white_stripe_brings_scanners_together():
    found = []
    for gain, offset in ((1.0, 0.0), (2.5, 40.0)):
        base = case()
        image = base.images["mr"]
        other = replace(base, images={"mr": image.with_array(image.array * np.float32(gain) + np.float32(offset))})
        found.append(apply(config.WhiteStripe(), other).images["mr"].array)
    np.testing.assert_allclose(found[0], found[1], atol=0.15)


@pytest.mark.parametrize(
    "step",
    [config.ZScore(over="image"), config.ZScore(over="body"), config.ZScore(over="roi"), config.WhiteStripe(),
     config.Nyul(landmarks=LANDMARKS), config.N4()],
    ids=name_of,
)  # fmt: skip
def test_constant_intensity_has_a_code(step):
    flat = case()
    flat = replace(flat, images={"mr": flat.images["mr"].with_array(np.full(flat.roi.shape, 7.0, np.float32))})
    refused(step, flat, Code.INTENSITY_CONSTANT)


@pytest.mark.parametrize(
    "step",
    [config.CropToRoi(margin_mm=1), config.Resample(spacing_mm=(2, 2, 2)), config.ZScore(over="roi"),
     config.Resegment(lower=0.0), config.CheckRange()],
    ids=name_of,
)  # fmt: skip
def test_empty_roi_has_a_code(step):
    empty = case()
    empty = replace(empty, roi=empty.roi.with_array(np.zeros(empty.roi.shape, np.bool_)))
    refused(step, empty, Code.ROI_EMPTY)


def test_roi_smaller_than_a_voxel():
    small = case()
    array = np.zeros(small.roi.shape, np.bool_)
    array[7, 18, 25] = True
    small = replace(small, roi=small.roi.with_array(array))
    refused(config.Resample(spacing_mm=(9.0, 9.0, 9.0)), small, Code.ROI_TOO_SMALL)


def test_resegmentation_that_leaves_nothing():
    refused(config.Resegment(lower=5000.0), case(), Code.ROI_EMPTY)


@pytest.mark.parametrize("step", [s for s in EXAMPLES if s.kind not in {"to_lps", "check_registration"}], ids=name_of)
def test_other_grids_are_refused_and_rounding_is_not(step):
    base = positive(case())
    near, far = base.roi.affine.copy(), base.roi.affine.copy()
    near[:3, 3] += 1e-3
    far[:3, 3] += 0.3
    found = apply(step, replace(base, roi=Volume(base.roi.array, near)))
    np.testing.assert_array_equal(found.roi.affine, found.images["mr"].affine)
    refused(step, replace(base, roi=Volume(base.roi.array, far)), Code.GRID_MISMATCH)


def test_unsigned_wrap_is_refused():
    """-1000 HU of air stored as unsigned 16 bit is 64536; the ROI may be spared by it."""
    wrapped = case(air=-1000.0, lean=50.0, lesion=60.0)
    array = wrapped.images["mr"].array
    array = np.where(array < 0, array + 65536, array).astype(np.float32)
    broken = replace(wrapped, images={"mr": wrapped.images["mr"].with_array(array)})
    apply(config.CheckRange(), wrapped)
    refused(config.CheckRange(tolerated_share=0.1), broken, Code.INTENSITY_OUT_OF_RANGE)
    dark = replace(broken, roi=broken.roi.with_array(array > 60000))
    refused(config.CheckRange(), dark, Code.INTENSITY_OUT_OF_RANGE)


@pytest.mark.parametrize(
    "change",
    [lambda a: a - 2 * a.max(), lambda a: a * 1000, lambda a: a / a.max() * 0.9],
    ids=["negative", "becquerel", "share"],
)
def test_suv_scale(change):
    pet = positive(case(air=0.0, lean=1.5, lesion=8.0))
    pet = replace(pet, images={"pet": pet.images["mr"].with_array(np.clip(pet.images["mr"].array, 0.0, 20.0))})
    apply(config.SuvCheck(), pet)
    image = pet.images["pet"]
    refused(
        config.SuvCheck(),
        replace(pet, images={"pet": image.with_array(change(image.array))}),
        Code.INTENSITY_OUT_OF_RANGE,
    )


def test_anisotropy_is_recorded_or_refused():
    assert slice_wise(case()) is None
    assert slice_wise(apply(config.Anisotropy(maximum_ratio=2.0), case())) is True
    assert slice_wise(apply(config.Anisotropy(maximum_ratio=3.5), case())) is False
    refused(config.Anisotropy(maximum_ratio=2.0, otherwise="refuse"), case(), Code.CASE_INVALID)


def two_sequences(shift_mm=(2.0, -3.0, 3.0), angle=0.0):
    """A second sequence of the same patient, on another grid, in a frame that moved by ``shift_mm`` (x, y, z)."""
    fixed = case()
    moving = volume(seed=5, air=15.0, lean=800.0, lesion=300.0)
    affine = moving.affine.copy()
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    centre = affine[:3, :3] @ [(n - 1) / 2 for n in moving.shape] + affine[:3, 3]
    affine[:3, 3] = turn @ (affine[:3, 3] - centre) + centre + shift_mm
    affine[:3, :3] = turn @ affine[:3, :3]
    return replace(fixed, images={"t2": Volume(moving.array, affine), **fixed.images})


def test_registration_is_checked():
    subject = two_sequences()
    refused(config.CheckRegistration(reference="mr"), subject, Code.GRID_MISMATCH)
    refused(config.CheckRegistration(reference="flair"), subject, Code.CASE_INVALID)
    same = two_sequences(shift_mm=(0.0, 0.0, 0.001))
    assert apply(config.CheckRegistration(reference="mr"), same).steps[0].learned == {}


def test_rigid_registration_finds_the_shift():
    subject = two_sequences(shift_mm=(2.0, -3.0, 3.0), angle=0.05)
    after = apply(config.CheckRegistration(reference="mr", otherwise="rigid"), subject)
    rigid = np.array(after.steps[0].learned["t2"]["rigid"])
    np.testing.assert_allclose(rigid[3:6], [2.0, -3.0, 3.0], atol=0.6)
    inside = after.images["t2"].array[lesion_mask()]
    # 13 % of the lesion's voxels touch lean tissue; without the registration the mean is above 450
    assert inside.mean() < 345
    trusted = apply(config.CheckRegistration(reference="mr", otherwise="resample"), subject)
    assert trusted.images["t2"].array[lesion_mask()].mean() > 400
    again = replay(subject, after.steps)
    np.testing.assert_array_equal(again.images["t2"].array, after.images["t2"].array)


def test_an_image_that_is_not_there():
    with pytest.raises(KeyError, match="no image ct"):
        apply(config.RoundHu(), case(), images=("ct",))


def test_intensity_steps_touch_the_named_images_only():
    subject = case()
    subject = replace(subject, images={**subject.images, "t2": volume(seed=3)})
    after = apply(config.ZScore(over="image"), subject, images=("t2",))
    np.testing.assert_array_equal(after.images["mr"].array, subject.images["mr"].array)
    assert abs(after.images["t2"].array.mean()) < 1e-6
    assert after.steps[0].images == ("t2",)


def test_a_case_has_an_image_and_a_bool_roi():
    image = volume()
    with pytest.raises(ValueError, match="no image"):
        Case(case_id="c1", images={}, roi=image.with_array(lesion_mask()))
    with pytest.raises(TypeError, match="bool"):
        Case(case_id="c1", images={"mr": image}, roi=image)
