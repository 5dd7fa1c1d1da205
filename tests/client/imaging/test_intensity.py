from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.imaging import intensity
from client.imaging.tissue import reference_stripe
from common.volume import Volume

floats = st.floats(-2000, 2000)


def noise(seed=0, *, shape=(6, 7, 8), scale=100.0, dtype=np.float64):
    return Volume.from_geometry((np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype))


def ball(image, radius=3.0):
    d, h, w = np.indices(image.shape)
    centre = [(n - 1) / 2 for n in image.shape]
    return image.with_array((d - centre[0]) ** 2 + (h - centre[1]) ** 2 + (w - centre[2]) ** 2 <= radius**2)


def test_rounding_is_idempotent_and_near():
    image = noise()
    once = intensity.round_hu(image)
    np.testing.assert_array_equal(intensity.round_hu(once).array, once.array)
    assert np.abs(once.array - image.array).max() <= 0.5
    np.testing.assert_array_equal(intensity.round_hu(image.with_array(-image.array)).array, -once.array)


@settings(max_examples=50, deadline=None)
@given(lower=floats, width=st.floats(1, 3000), seed=st.integers(0, 20))
def test_window_clips_and_scales(lower, width, seed):
    image = noise(seed, scale=500)
    found = intensity.window(image, lower=lower, upper=lower + width).array
    assert found.min() >= 0
    assert found.max() <= 1
    inside = (image.array >= lower) & (image.array <= lower + width)
    np.testing.assert_allclose(found[inside] * width + lower, image.array[inside], atol=1e-9)
    assert (found[image.array < lower] == 0).all()
    assert (found[image.array > lower + width] == 1).all()


def test_window_without_width():
    with pytest.raises(ValueError, match="lower < upper"):
        intensity.window(noise(), lower=5, upper=5)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 50),
    offset=st.floats(-1e4, 1e4),
    scale=st.floats(0.1, 1e3),
    over=st.sampled_from(["image", "roi"]),
)
def test_zscore_has_mean_0_and_std_1(seed, offset, scale, over):
    image = noise(seed, scale=scale)
    image = image.with_array(image.array + offset)
    mask = None if over == "image" else ball(image).array
    found, place = intensity.zscore(image, mask)
    values = found.array if mask is None else found.array[mask]
    assert values.mean() == pytest.approx(0, abs=1e-9)
    assert values.std() == pytest.approx(1, abs=1e-9)
    # inverse: the learned numbers restore the image; idempotence: a second time changes nothing
    np.testing.assert_allclose(found.array * place.std + place.mean, image.array, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(intensity.zscore(found, mask)[0].array, found.array, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 50), offset=st.floats(-100, 100), gain=st.floats(0.1, 50))
def test_zscore_forgets_gain_and_offset(seed, offset, gain):
    image = noise(seed)
    other = image.with_array(gain * image.array + offset)
    np.testing.assert_allclose(intensity.zscore(other)[0].array, intensity.zscore(image)[0].array, atol=1e-9)


def test_zscore_of_equal_intensities_is_undefined():
    with pytest.raises(ValueError, match="equal"):
        intensity.zscore(noise().with_array(np.full((6, 7, 8), 3.0)))


def test_resegmentation_by_range_and_sigma():
    image, roi = noise(), ball(noise())
    values = image.array[roi.array]
    by_range = intensity.resegment(image, roi, lower=-50, upper=80).array
    np.testing.assert_array_equal(by_range, roi.array & (image.array >= -50) & (image.array <= 80))
    mean, std = values.mean(), values.std()
    by_sigma = intensity.resegment(image, roi, n_sigma=1.0).array
    np.testing.assert_array_equal(by_sigma, roi.array & (np.abs(image.array - mean) <= std))
    # both: mean and spread are those of the whole ROI (IBSI 2.6), so the result is the intersection
    both = intensity.resegment(image, roi, lower=-50, upper=80, n_sigma=1.0).array
    np.testing.assert_array_equal(both, by_range & by_sigma)


def test_resegmentation_limits_belong_to_the_roi():
    image = noise().with_array(np.arange(336, dtype=np.float64).reshape(6, 7, 8))
    roi = image.with_array(np.ones(image.shape, np.bool_))
    assert intensity.resegment(image, roi, lower=10, upper=20).array.sum() == 11


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    image = noise(dtype=dtype)
    for found in (
        intensity.round_hu(image),
        intensity.window(image, lower=-1, upper=1),
        intensity.zscore(image)[0],
    ):
        assert found.array.dtype == dtype


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating"):
        intensity.zscore(noise().with_array(np.zeros((6, 7, 8), np.int16)))


def phantom_body(*, air=0.0, lean=300.0, fat=900.0):
    """A body of lean and fat tissue with a hole of air (gut), and a separate arm of fat that is smaller."""
    rng = np.random.default_rng(0)
    array = np.abs(rng.normal(0, 8, size=(6, 60, 80))) + air
    _d, h, w = np.indices(array.shape)
    body = (h - 30) ** 2 / 22**2 + (w - 32) ** 2 / 28**2 <= 1
    array[body] = lean + rng.normal(0, 20, body.sum())
    skin = body & ((h - 30) ** 2 / 17**2 + (w - 32) ** 2 / 23**2 > 1)
    array[skin] = fat + rng.normal(0, 20, skin.sum())
    gut = (h - 30) ** 2 + (w - 32) ** 2 <= 16
    array[gut] = np.abs(rng.normal(0, 8, gut.sum())) + air
    array[(h - 30) ** 2 + (w - 72) ** 2 <= 16] = fat
    return Volume.from_geometry(array.astype(np.float32)), body


@pytest.mark.parametrize("gain", [1.0, 0.003, 40.0])
@pytest.mark.parametrize("offset", [0.0, -1024.0])
def test_body_is_the_largest_part_with_its_holes(gain, offset):
    image, body = phantom_body()
    found = intensity.body_mask(image.with_array((image.array * gain + offset).astype(np.float64)))
    overlap = 2 * (found & body).sum() / (found.sum() + body.sum())
    assert overlap > 0.995


def test_body_needs_contrast():
    image = noise().with_array(np.ones((6, 7, 8)))
    with pytest.raises(ValueError, match="equal"):
        intensity.body_mask(image)
    with pytest.raises(ValueError, match="above the threshold"):
        intensity.body_mask(image, threshold=5.0)


@pytest.mark.parametrize(("peak", "centre"), [("highest", 300.0), ("last", 900.0)])
def test_stripe_finds_the_tissue(peak, centre):
    image, body = phantom_body()
    values = image.array[body]
    stripe = reference_stripe(values, peak=peak, width=0.05)
    assert stripe.peak == pytest.approx(centre, abs=15)
    assert stripe.lower <= stripe.peak <= stripe.upper
    inside = (values >= stripe.lower) & (values <= stripe.upper)
    assert inside.mean() == pytest.approx(0.10, abs=0.01)
    assert stripe.place.mean == pytest.approx(centre, abs=15)


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 100), offset=st.floats(-500, 500))
def test_stripe_follows_gain_and_offset(gain, offset):
    image, body = phantom_body()
    values = image.array[body].astype(np.float64)
    base = reference_stripe(values, peak="highest", width=0.05)
    other = reference_stripe(values * gain + offset, peak="highest", width=0.05)
    standard = (values - base.place.mean) / base.place.std
    np.testing.assert_allclose((values * gain + offset - other.place.mean) / other.place.std, standard, atol=0.05)
