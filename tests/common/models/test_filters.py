"""The fixed filters: their sums, symmetries, and what their energies see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.models.cnn3d import MAPS_PER_CHANNEL, n_energies
from common.models.networks.filters import (
    SPLINE,
    SPREAD_FLOOR,
    SPREAD_UNIT,
    STEPS,
    _bands,
    contrasts,
    energies,
    moments,
    scattering,
    smoothed,
)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype("f4"))


def ball(side: int, radius: float) -> Tensor:
    axis = torch.arange(side) - (side - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()
    return (distance < radius).float()[None, None]


@pytest.mark.parametrize("step", STEPS)
def test_smoothing_equals_scipy_along_each_axis(step: int):
    maps = volume(2, 3, 5, 6, 9)
    taps = np.zeros(4 * step + 1)
    taps[::step] = SPLINE
    expected = maps.numpy().astype("f8")
    for axis in (2, 3, 4):
        expected = ndimage.convolve1d(expected, taps, axis=axis, mode="nearest")
    np.testing.assert_allclose(smoothed(maps, step).numpy(), expected, atol=1e-5)


def test_bands_and_the_last_smoothing_add_up_to_the_image():
    maps = volume(1, 2, 8, 8, 8)
    coarsest = maps
    for step in STEPS:
        coarsest = smoothed(coarsest, step)
    torch.testing.assert_close(sum(_bands(maps), start=coarsest), maps)


def test_an_even_image_has_no_band_of_any_order():
    maps = scattering(torch.full((1, 2, 7, 8, 9), 0.3))
    assert maps.shape == (1, 2 * MAPS_PER_CHANNEL, 7, 8, 9)
    torch.testing.assert_close(maps[:, :2], torch.full((1, 2, 7, 8, 9), 0.3))
    assert float(maps[:, 2:].abs().max()) < 1e-6


def test_energies_are_those_of_the_mirrored_and_turned_case():
    image, roi = volume(1, 1, 10, 10, 10), ball(10, 3.4)
    moved = [part.flip(2).permute(0, 1, 3, 4, 2) for part in (image, roi)]
    first, second = (energies(scattering(i), r, n_channels=1) for i, r in ((image, roi), moved))
    assert first.shape == (1, n_energies(1))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_a_log_variance_in_the_roi_is_that_of_numpy():
    image, roi = volume(1, 1, 9, 9, 9), ball(9, 3.0)
    maps = scattering(image)
    inside = maps[0][:, roi[0, 0] > 0].numpy()
    expected = np.log((inside.var(axis=1) + SPREAD_FLOOR**2) / SPREAD_UNIT**2)
    _, found = moments(maps, roi)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_contrasts_of_an_image_feel_a_gain_in_its_level_alone():
    """Twice the amplitude is one number more in every log variance, of this channel only."""
    log_variance = volume(2, 3, 2 * MAPS_PER_CHANNEL)
    louder = log_variance.clone()
    louder[:, :, 1::2] += 1.5  # of two channels the second
    change = contrasts(louder, n_channels=2) - contrasts(log_variance, n_channels=2)
    torch.testing.assert_close(change[:, :2], torch.tensor([[0.0, 1.5]] * 2))
    assert float(change[:, 2:].abs().max()) < 1e-5


def test_contrasts_lose_nothing_of_the_log_variances():
    """As a linear map of one channel's 21 numbers they have full rank."""
    n = 3 * MAPS_PER_CHANNEL
    matrix = contrasts(torch.eye(n).reshape(n, 3, MAPS_PER_CHANNEL), n_channels=1)
    assert matrix.shape == (n, n + 1)
    assert int(torch.linalg.matrix_rank(matrix)) == n


def test_patchy_texture_shows_in_the_second_order_where_the_first_is_equal():
    """Fine noise of one energy: everywhere alike, or loud in one half and quiet in the other."""
    noise = volume(1, 1, 16, 16, 16)
    loudness = torch.ones(16)
    loudness[8:] = 0.0
    patchy = noise * loudness * 2**0.5
    roi = torch.ones(1, 1, 16, 16, 16)
    even, uneven = (moments(scattering(i), roi)[1][0, 0] for i in (noise, patchy))
    assert abs(float(uneven[1] - even[1])) < 0.15  # order 1, finest band
    assert float(uneven[5] - even[5]) > 0.5  # order 2: coarse bands of its absolute value


@pytest.mark.parametrize("inside", [0, 1])
def test_an_empty_roi_and_one_voxel_are_finite(inside: int):
    roi = torch.zeros(1, 1, 6, 6, 6)
    roi.view(-1)[:inside] = 1
    assert torch.isfinite(energies(scattering(volume(1, 1, 6, 6, 6)), roi, n_channels=1)).all()
