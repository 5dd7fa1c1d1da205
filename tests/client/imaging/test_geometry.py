from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.imaging.geometry import margin_box, on_grid_of, stack_of, to_lps
from common.errors import CaseError, Code
from common.volume import DIRECTION_TOLERANCE, ORIGIN_TOLERANCE_MM, SPACING_TOLERANCE_MM, Volume

angles = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
flips = st.tuples(*[st.booleans()] * 3)


def turned(angles=(0.0, 0.0, 0.0), flips=(False, False, False), axes=(0, 1, 2), *, shape=(4, 5, 6)):
    """A volume with voxels that tell where they are, turned by angles, with flipped and exchanged axes."""
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    direction = (rotation * np.where(flips, -1.0, 1.0))[:, list(axes)]
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    return Volume.from_geometry(array, spacing_mm=(3.0, 0.9, 0.7), origin_mm=(5, -6, 7), direction=direction)


def assert_same_scene(found, volume):
    """Every voxel of one volume stands at the place of a voxel of the other, with its value."""
    world = found.affine[:3, :3] @ np.indices(found.shape).reshape(3, -1) + found.affine[:3, 3:]
    index = np.linalg.solve(volume.affine[:3, :3], world - volume.affine[:3, 3:])
    nearest = np.rint(index).astype(int)
    np.testing.assert_allclose(index, nearest, atol=1e-9)
    np.testing.assert_array_equal(volume.array[tuple(nearest)], found.array.ravel())
    assert found.array.size == volume.array.size


@settings(max_examples=40, deadline=None)
@given(angles=angles, flips=flips, axes=st.permutations([0, 1, 2]))
def test_reorientation_leaves_every_voxel_where_it_is(angles, flips, axes):
    volume = turned(angles, flips, axes)
    found = to_lps(volume)
    assert_same_scene(found, volume)
    # D, H, W run as near as may be along +z, +y, +x, and doing it twice changes nothing
    assert (np.diag(found.direction[::-1]) >= -1e-9).all()
    again = to_lps(found)
    np.testing.assert_array_equal(again.array, found.array)
    np.testing.assert_array_equal(again.affine, found.affine)


def test_axial_stack_is_left_alone():
    volume = Volume.from_geometry(np.arange(24.0).reshape(2, 3, 4), spacing_mm=(3, 1, 1))
    found = to_lps(volume)
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_array_equal(found.affine, volume.affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize(
    "flips", [(False, False, False), (True, False, False), (True, True, True), (False, True, True)]
)
def test_a_left_handed_or_sagittal_copy_becomes_the_axial_one(axes, flips):
    axial = Volume.from_geometry(np.random.default_rng(0).normal(size=(4, 5, 6)), spacing_mm=(3.0, 0.9, 0.7))
    array, affine = np.transpose(axial.array, axes), axial.affine[:, [*axes, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    found = to_lps(Volume(array, affine))
    np.testing.assert_array_equal(found.array, axial.array)
    np.testing.assert_allclose(found.affine, axial.affine, atol=1e-12)


def moved(volume, *, origin_mm=0.0, spacing_mm=0.0, direction=0.0):
    return Volume.from_geometry(
        volume.array,
        spacing_mm=np.add(volume.spacing_mm, [0, 0, spacing_mm]),
        origin_mm=np.add(volume.origin_mm, [0, origin_mm, 0]),
        direction=volume.direction + np.array([[0, 0, 0], [direction, 0, 0], [0, 0, 0]]),
    )


@pytest.mark.parametrize(
    ("axis", "tolerance"),
    [("origin_mm", ORIGIN_TOLERANCE_MM), ("spacing_mm", SPACING_TOLERANCE_MM), ("direction", DIRECTION_TOLERANCE)],
)
def test_rounding_is_accepted_and_more_is_refused(axis, tolerance):
    volume = turned((0.3, 0.1, -0.2))
    near = moved(volume, **{axis: 0.5 * tolerance})
    found = on_grid_of(volume, near, case_id="c1", name="roi")
    np.testing.assert_array_equal(found.affine, volume.affine)  # no later step sees the rounding
    with pytest.raises(CaseError, match=r"expected|tolerance") as caught:
        on_grid_of(volume, moved(volume, **{axis: 3 * tolerance}), case_id="c1", name="roi")
    assert caught.value.code is Code.GRID_MISMATCH


def test_another_shape_is_refused():
    with pytest.raises(CaseError, match=r"shape \(4, 5, 7\), expected \(4, 5, 6\)"):
        on_grid_of(turned(), turned(shape=(4, 5, 7)), case_id="c1", name="roi")


def test_margin_box_keeps_to_the_grid():
    array = np.zeros((10, 20, 30), np.bool_)
    array[4:6, 0:3, 27:30] = True
    roi = Volume.from_geometry(array, spacing_mm=(3.0, 1.0, 1.0))
    box = margin_box(roi, margin_mm=5.0)
    assert (box.start, box.stop) == ((2, 0, 22), (8, 8, 30))
    exact = margin_box(roi, margin_mm=0.0)
    assert roi.crop(exact.start, exact.stop).array.shape == (2, 3, 3)


def test_thick_slices_are_read_slice_by_slice():
    stack = stack_of(Volume.from_geometry(np.zeros((4, 5, 6)), spacing_mm=(5.0, 0.9, 0.75)))
    assert stack.axis == 0
    assert stack.ratio == pytest.approx(5 / 0.75)
    assert stack.slice_wise(maximum_ratio=3)
    assert not stack.slice_wise(maximum_ratio=7)
