from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from client.imaging.resample import Region, bounding_box, resample_image, resample_roi, resampled_axes, roi_region
from client.ingest.nifti import read_roi, read_volume
from common.volume import Volume

PHANTOM = Path(__file__).parents[3] / "../shared/data/ibsi/ibsi_1_ct_radiomics_phantom/nifti"

spacings = st.floats(0.3, 5.0)
shapes = st.tuples(*[st.integers(2, 9)] * 3)


def noise(shape, *, spacing_mm=(1.0, 1.0, 1.0), seed=0):
    array = np.random.default_rng(seed).normal(size=shape)
    return Volume.from_geometry(array, spacing_mm=spacing_mm, origin_mm=(5.0, -7.0, 11.0))


def centre(volume):
    return volume.affine @ [*((n - 1) / 2 for n in volume.shape), 1.0]


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    old=st.tuples(*[spacings] * 3),
    new=st.tuples(*[spacings | st.just(0.0)] * 3),
    order=st.sampled_from([0, 1, 3]),
)
def test_equals_map_coordinates_on_the_ibsi_grid(shape, old, new, order):
    volume = noise(shape, spacing_mm=old)
    axes = resampled_axes(volume, spacing_mm=new)
    grid = np.meshgrid(*(axis.coordinates(0, axis.n) for axis in axes), indexing="ij")
    oracle = map_coordinates(volume.array, grid, order=order, mode="nearest")
    found = resample_image(volume, spacing_mm=new, order=order)
    # scipy takes nearest voxels by rounding half up, as here, but from coordinates it has rounded on the way
    assert found.shape == oracle.shape
    if order == 0:
        assert np.mean(found.array == oracle) > 0.9
    else:
        np.testing.assert_allclose(found.array, oracle, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, old=st.tuples(*[spacings] * 3), new=st.tuples(*[spacings] * 3))
def test_grid_covers_the_image_and_shares_its_centre(shape, old, new):
    volume = noise(shape, spacing_mm=old)
    found = resample_image(volume, spacing_mm=new, order=1)
    np.testing.assert_allclose(centre(found), centre(volume), atol=1e-9)
    assert found.spacing_mm == pytest.approx(new, abs=2e-5)
    for n_new, n, s_new, s in zip(found.shape, shape, new, old, strict=True):
        assert n_new == pytest.approx(np.ceil(n * s / s_new), abs=1)
        assert n_new * s_new >= n * s * (1 - 1e-3)
        assert (n_new - 1) * s_new < n * s + 1e-6


@pytest.mark.parametrize("order", [0, 1, 3])
def test_same_spacing_is_identity(order):
    volume = noise((5, 6, 7), spacing_mm=(3.0, 0.9, 0.7))
    for spacing in ((0, 0, 0), volume.spacing_mm):
        found = resample_image(volume, spacing_mm=spacing, order=order)
        np.testing.assert_array_equal(found.array, volume.array)
        np.testing.assert_array_equal(found.affine, volume.affine)
    roi = volume.with_array(volume.array > 0)
    np.testing.assert_array_equal(resample_roi(roi, spacing_mm=(0, 0, 0)).array, roi.array)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_constant_stays_constant(order):
    volume = noise((5, 6, 7)).with_array(np.full((5, 6, 7), 37.25))
    found = resample_image(volume, spacing_mm=(0.7, 1.3, 2.1), order=order)
    np.testing.assert_allclose(found.array, 37.25, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3])
def test_a_ramp_in_the_world_stays_one(order):
    base = noise((30, 24, 20), spacing_mm=(3.0, 0.9, 0.7))

    def ramp(volume):
        d, h, w = np.indices(volume.shape)
        x, y, z = np.einsum("ij,jdhw->idhw", volume.affine[:3], np.stack([d, h, w, np.ones_like(d)]))
        return 2.0 * x - 3.0 * y + 0.5 * z

    found = resample_image(base.with_array(ramp(base)), spacing_mm=(2.0, 1.1, 1.0), order=order)
    middle = (slice(9, -9), slice(7, -7), slice(5, -5))  # away from the border, where the nearest voxel is repeated
    # the repeated border is felt 6 voxels inside by the spline, at the 3rd decimal of the ramp
    np.testing.assert_allclose(found.array[middle], ramp(found)[middle], atol=1e-9 if order == 1 else 5e-3)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(40, 30, 20), (130, 12, 170)])
def test_region_is_bit_equal_to_the_whole(order, shape):
    volume = noise(shape, spacing_mm=(1.5, 0.8, 0.9))
    whole = resample_image(volume, spacing_mm=(1.0, 1.0, 0), order=order)
    rng = np.random.default_rng(1)
    for _ in range(10):
        start = [int(rng.integers(0, n)) for n in whole.shape]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, whole.shape, strict=True)]
        part = resample_image(volume, spacing_mm=(1.0, 1.0, 0), order=order, region=Region(tuple(start), tuple(stop)))
        expected = whole.crop(start, stop)
        np.testing.assert_array_equal(part.array, expected.array)
        np.testing.assert_allclose(part.affine, expected.affine, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, new=st.tuples(*[spacings] * 3), seed=st.integers(0, 9), threshold=st.sampled_from([0.3, 0.5, 1.0]))
def test_roi_is_linear_rounded_and_cut(shape, new, seed, threshold):
    rng = np.random.default_rng(seed)
    roi = noise(shape, spacing_mm=(2.0, 1.0, 1.0)).with_array(rng.random(shape) < 0.3)
    share = resample_image(roi.with_array(roi.array.astype(float)), spacing_mm=new, order=1)
    found = resample_roi(roi, spacing_mm=new, threshold=threshold)
    np.testing.assert_array_equal(found.array, np.round(share.array, 6) >= threshold)
    np.testing.assert_array_equal(found.affine, share.affine)


def test_roi_region_holds_the_whole_roi():
    roi = noise((40, 50, 60), spacing_mm=(3.0, 1.0, 1.0))
    array = np.zeros(roi.shape, np.bool_)
    array[10:13, 20:31, 0:7] = True
    roi = roi.with_array(array)
    whole = resample_roi(roi, spacing_mm=(2, 2, 2))
    region = roi_region(roi, spacing_mm=(2, 2, 2), margin_mm=5.0)
    part = resample_roi(roi, spacing_mm=(2, 2, 2), region=region)
    assert part.array.sum() == whole.array.sum() > 0
    inner = bounding_box(whole.array)
    for a, b, c, d, n in zip(region.start, inner.start, inner.stop, region.stop, whole.shape, strict=True):
        assert a <= max(b - 2, 0)
        assert d >= min(c + 2, n)


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("order", [1, 3])
def test_order_of_axes_does_not_matter(axes, order):
    volume = noise((8, 9, 10), spacing_mm=(3.0, 0.9, 0.7))
    turned = Volume(np.transpose(volume.array, axes), volume.affine[:, [*axes, 3]])
    spacing = np.array([2.0, 1.5, 1.0])
    found = resample_image(turned, spacing_mm=spacing[list(axes)], order=order)
    expected = resample_image(volume, spacing_mm=spacing, order=order)
    np.testing.assert_allclose(found.array, np.transpose(expected.array, axes), atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_flips_commute(axis, order):
    volume = noise((9, 9, 11), spacing_mm=(3.0, 0.9, 0.7))
    found = resample_image(volume.with_array(np.flip(volume.array, axis)), spacing_mm=(2.1, 1.37, 1.13), order=order)
    expected = resample_image(volume, spacing_mm=(2.1, 1.37, 1.13), order=order)
    np.testing.assert_allclose(found.array, np.flip(expected.array, axis), atol=1e-12)


def test_header_rounding_makes_no_voxel():
    # 100 x 0.97656251 mm at 0.9765625 mm: without a tolerance the ceiling would be 101
    volume = noise((100, 4, 4), spacing_mm=(0.9765727, 1, 1))
    assert resampled_axes(volume, spacing_mm=(0.48828125, 0, 0))[0].n == 201
    volume = noise((100, 4, 4), spacing_mm=(0.97656251, 1, 1))
    assert resampled_axes(volume, spacing_mm=(0.48828125, 0, 0))[0].n == 200


@pytest.mark.parametrize("spacing", [(-1, 1, 1), (1, np.nan, 1), (1, 1, np.inf)])
def test_impossible_spacing(spacing):
    with pytest.raises(ValueError, match="spacing must be positive"):
        resample_image(noise((4, 4, 4)), spacing_mm=spacing, order=1)


def test_region_outside_the_grid():
    with pytest.raises(ValueError, match="leaves the grid"):
        resample_image(noise((4, 4, 4)), spacing_mm=(1, 1, 1), order=1, region=Region((0, 0, 0), (5, 4, 4)))


def test_empty_roi_stays_empty():
    roi = noise((4, 4, 4)).with_array(np.zeros((4, 4, 4), np.bool_))
    assert not resample_roi(roi, spacing_mm=(2, 2, 2)).array.any()
    with pytest.raises(ValueError, match="no bounding box"):
        bounding_box(roi.array)


@pytest.mark.skipif(not PHANTOM.is_dir(), reason="shared/data/ibsi is not here")
def test_ibsi_ct_phantom_grid_and_voxel_counts():
    """Diagnostic values of configurations A, C and E after interpolation.

    Source: IBSI reference values, file ibsi1_reference_values.csv, configuration C, family "Diagnostics-interpolated".
    """
    import csv

    image = read_volume(PHANTOM / "image/phantom.nii.gz", case_id="phantom")
    roi = read_roi(PHANTOM / "mask/mask.nii.gz", label=1, case_id="phantom")
    with (PHANTOM.parents[1] / "ibsi1_reference_values.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["config"] == "C" and row["value"]]
    reference = {row["ibsi_tag"]: float(row["value"]) for row in rows}
    found = resample_image(image, spacing_mm=(2, 2, 2), order=1)
    found = found.with_array(np.rint(found.array))
    inside = resample_roi(roi, spacing_mm=(2, 2, 2))
    checked = {
        "img_dim_x_interp_img": found.shape[2],
        "img_dim_y_interp_img": found.shape[1],
        "img_dim_z_interp_img": found.shape[0],
        "mean_int_interp_img": found.array.mean(),
        "min_int_interp_img": found.array.min(),
        "max_int_interp_img": found.array.max(),
        "int_mask_vox_count_interp_roi": inside.array.sum(),
        "int_mask_mean_int_interp_roi": found.array[inside.array].mean(),
    }
    known = {tag: value for tag, value in checked.items() if tag in reference}
    assert len(known) >= 6, sorted(tag for tag in reference if "interp" in tag)
    for tag, value in known.items():
        assert float(f"{value:.3g}") == pytest.approx(float(f"{reference[tag]:.3g}")), tag
