"""The box around an ROI: where it lies, what it keeps, and that it does not see how the image was stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from client.imaging.patch import patch_pair
from common.volume import Volume

SHAPE = (18, 20, 22)


def rotation(degrees: float) -> np.ndarray:
    a, b = np.deg2rad([degrees, degrees / 2])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def placed(array: np.ndarray, *, spacing=(2.0, 1.0, 1.5), degrees: float = 0.0, origin=(5.0, -7.0, 30.0)) -> Volume:
    direction = rotation(degrees)[:, ::-1].copy()
    return Volume.from_geometry(array, spacing_mm=spacing, origin_mm=origin, direction=direction)


def box_roi(centre=(9, 10, 11), half=(2, 3, 3)) -> np.ndarray:
    roi = np.zeros(SHAPE, dtype=bool)
    roi[tuple(slice(c - h, c + h + 1) for c, h in zip(centre, half, strict=True))] = True
    return roi


def world(volume: Volume) -> np.ndarray:
    """LPS coordinates of every voxel, shape (3, D, H, W)."""
    index = np.indices(volume.shape).reshape(3, -1)
    return (volume.affine[:3, :3] @ index + volume.affine[:3, 3:]).reshape(3, *volume.shape)


def ball(like: Volume, centre: np.ndarray, radius: float) -> Volume:
    distance = np.linalg.norm(world(like) - centre[:, None, None, None], axis=0)
    return like.with_array(distance <= radius)


def smooth_image(like: Volume) -> Volume:
    """A field that is a function of world coordinates alone."""
    x, y, z = world(like)
    return like.with_array(np.sin(x / 9) + np.cos(y / 7) + np.sin(z / 8 + x / 20))


RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=SHAPE).astype(np.float32)


def test_on_the_images_own_grid_the_box_is_a_piece_of_it():
    image, roi = placed(NOISE), placed(box_roi())
    intensities, share = patch_pair(image, roi, spacing_mm=(2.0, 1.0, 1.5), shape=(5, 7, 9))
    window = np.s_[7:12, 7:14, 7:16]
    np.testing.assert_allclose(intensities, NOISE[window], atol=1e-6)
    np.testing.assert_allclose(share, box_roi()[window], atol=1e-6)
    assert intensities.dtype == share.dtype == np.float32


def test_the_box_is_centred_on_the_roi():
    image = placed(NOISE, spacing=(1, 1, 1))
    for centre in ((6, 7, 8), (9, 10, 11), (12, 10, 9)):
        _, share = patch_pair(
            image, placed(box_roi(centre, (2, 2, 2)), spacing=(1, 1, 1)), spacing_mm=(1, 1, 1), shape=(9,) * 3
        )
        centroid = (np.indices(share.shape) * share).reshape(3, -1).sum(axis=1) / share.sum()
        np.testing.assert_allclose(centroid, [4, 4, 4], atol=1e-6)


def test_axes_of_the_box_run_along_z_y_x_at_the_asked_spacing():
    like = placed(NOISE)
    roi = placed(box_roi())
    x, y, z = world(like)
    spacing = (1.3, 0.7, 0.9)
    for axis, coordinate in enumerate((z, y, x)):
        found, _ = patch_pair(like.with_array(coordinate), roi, spacing_mm=spacing, shape=(4, 4, 4))
        steps = np.diff(found.astype(np.float64), axis=axis)
        np.testing.assert_allclose(steps, spacing[axis], atol=1e-4)
        for other in {0, 1, 2} - {axis}:
            np.testing.assert_allclose(np.diff(found, axis=other), 0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    value=st.floats(-1000, 3000),
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    degrees=st.floats(-90, 90),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
)
def test_a_constant_image_stays_constant(value: float, spacing, degrees: float, shape):
    image = placed(np.full(SHAPE, value), degrees=degrees)
    intensities, share = patch_pair(image, placed(box_roi(), degrees=degrees), spacing_mm=spacing, shape=shape)
    assert intensities.shape == share.shape == shape
    np.testing.assert_allclose(intensities, value, rtol=1e-5, atol=1e-4)
    assert share.min() >= 0
    assert share.max() <= 1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    spacing=st.tuples(*[st.floats(0.6, 2.0)] * 3),
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    corner=st.tuples(*[st.integers(1, 8)] * 3),
)
def test_along_the_images_axes_it_is_what_scipy_interpolates(order, signs, spacing, shape, corner):
    """Oracle: `scipy.ndimage.affine_transform`, which does all axes at once; boxes may reach beyond the image."""
    direction = np.eye(3)[:, order] * signs
    roi = np.zeros(SHAPE, dtype=bool)
    roi[tuple(slice(c, c + n) for c, n in zip(corner, (3, 4, 6), strict=True))] = True
    # voxels as coarse as the box's at most, so that nothing is smoothed; their sizes leave odd places in between
    image, mask = (
        Volume.from_geometry(array, spacing_mm=(2.03, 2.07, 2.11), origin_mm=(1.0, 2.0, 3.0), direction=direction)
        for array in (NOISE, roi)
    )
    found = patch_pair(image, mask, spacing_mm=spacing, shape=shape)
    step = np.linalg.inv(image.affine[:3, :3])[:, ::-1] * spacing
    offset = np.argwhere(roi).mean(axis=0) - step @ ((np.asarray(shape) - 1) / 2)
    expected = [
        affine_transform(array.astype(np.float64), step, offset=offset, output_shape=shape, order=1, mode=beyond)
        for array, beyond in ((NOISE, "nearest"), (roi, "constant"))
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, -120])
@pytest.mark.parametrize("spacing_mm", [0.8, 2.0, 3.0])
def test_an_oblique_scan_gives_the_box_of_its_axis_aligned_copy(degrees: float, spacing_mm: float):
    shape, grid = (48, 48, 48), {"spacing": (1.0, 1.0, 1.0)}
    centre = np.array([3.0, -4.0, 12.0])

    def scan(turned: float) -> tuple[Volume, Volume]:
        origin = centre - rotation(turned) @ np.array([23.5, 23.5, 23.5])
        like = placed(np.zeros(shape), degrees=turned, origin=tuple(origin), **grid)
        return smooth_image(like), ball(like, centre, 9.0)

    size = tuple([round(20 / spacing_mm)] * 3)
    straight = patch_pair(*scan(0.0), spacing_mm=(spacing_mm,) * 3, shape=size)
    oblique = patch_pair(*scan(degrees), spacing_mm=(spacing_mm,) * 3, shape=size)
    np.testing.assert_allclose(oblique[0], straight[0], atol=0.02)
    # the ROI is made of voxels, so its surface differs between the two copies
    assert np.abs(oblique[1] - straight[1]).mean() < 0.03


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5), (0.7, 0.8, 3.0), (3.0, 3.0, 3.0)])
def test_the_share_sums_to_the_volume_of_the_roi(spacing: tuple[float, float, float]):
    image, roi = placed(NOISE), placed(box_roi())
    shape = tuple(int(np.ceil(24 / s)) for s in spacing)
    _, share = patch_pair(image, roi, spacing_mm=spacing, shape=shape)
    expected = roi.array.sum() * roi.voxel_volume_mm3
    assert share.sum() * np.prod(spacing) == pytest.approx(expected, rel=0.05)


def test_fine_texture_does_not_fold_into_coarse_stripes():
    """A pattern of period 2 voxels read every 4 voxels is nearly flat; plain interpolation would keep its swing."""
    stripes = np.where(np.indices(SHAPE)[2] % 2, 1.0, -1.0)
    image, roi = placed(stripes, spacing=(1, 1, 1)), placed(box_roi(), spacing=(1, 1, 1))
    found, _ = patch_pair(image, roi, spacing_mm=(4.0, 4.0, 4.0), shape=(3, 3, 3))
    assert np.abs(found).max() < 0.05


def test_beyond_the_image_the_nearest_voxel_is_repeated_and_the_roi_is_absent():
    image = placed(NOISE, spacing=(1, 1, 1))
    roi = placed(box_roi((1, 10, 11), (1, 1, 1)), spacing=(1, 1, 1))
    found, share = patch_pair(image, roi, spacing_mm=(1, 1, 1), shape=(9, 3, 3))
    np.testing.assert_allclose(found[:3], np.broadcast_to(NOISE[0, 9:12, 10:13], (3, 3, 3)), atol=1e-6)
    assert not share[:3].any()


def test_an_image_that_was_cropped_to_one_slice_still_gives_a_box():
    """`crop_to_roi` without a margin leaves one slice of an ROI of one slice."""
    array = NOISE[9:10]
    roi = np.zeros(array.shape, dtype=bool)
    roi[0, 8:12, 8:12] = True
    found, share = patch_pair(placed(array), placed(roi), spacing_mm=(2, 1, 1.5), shape=(3, 4, 4))
    np.testing.assert_allclose(found[1], NOISE[9, 8:12, 8:12], atol=1e-6)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(share[1], 1, atol=1e-6)


def test_scans_of_one_patient_in_two_frames_meet_at_the_lesion():
    """A fine and a coarse scan of one field: the same box, but for what the coarse one cannot hold."""
    centre = np.array([10.0, 5.0, 40.0])
    fine_like = placed(np.zeros((40, 40, 40)), spacing=(1, 1, 1), origin=(-10, -15, 20))
    coarse_like = placed(np.zeros((20, 22, 24)), spacing=(2.2, 2, 1.9), origin=(-12, -17, 18), degrees=5)
    fine = patch_pair(smooth_image(fine_like), ball(fine_like, centre, 8), spacing_mm=(2.5,) * 3, shape=(6,) * 3)
    coarse = patch_pair(smooth_image(coarse_like), ball(coarse_like, centre, 8), spacing_mm=(2.5,) * 3, shape=(6,) * 3)
    np.testing.assert_allclose(coarse[0], fine[0], atol=0.15)
