from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from client.imaging.perturb import Perturbation, neighbourhood, noise_level, perturb, perturbations, resize
from common.config.robustness import RobustnessConfig
from common.errors import CaseError, Code
from common.volume import Volume
from tests.client.imaging.cases import case

NONE = Perturbation(rotation_deg=0.0, translation=0.0, noise=0, volume_change=0.0)


def pair():
    made = case()
    return made.images["mr"], made.roi


def changed(change, *, noise_std=10.0, seed=0):
    return perturb(*pair(), change, noise_std=noise_std, seed=seed, case_id="c1")


def centre_mm(roi):
    return np.argwhere(roi.array).mean(axis=0) * roi.spacing_mm


def test_every_combination_once():
    found = perturbations(RobustnessConfig(rotations_deg=(-5, 5), translations=(0.5,), noise_repetitions=3))
    assert len(found) == len(set(found)) == RobustnessConfig(translations=(0.5,), noise_repetitions=3).n_perturbations
    assert perturbations(RobustnessConfig(noise_repetitions=0))[0].noise == 0


def test_no_change_is_identity():
    image, roi = pair()
    found = changed(NONE)
    np.testing.assert_array_equal(found[0].array, image.array.astype(np.float64))
    np.testing.assert_array_equal(found[1].array, roi.array)


def test_translation_moves_image_and_roi_together():
    image, roi = pair()
    found_image, found_roi = changed(Perturbation(0.0, 1.0, 0, 0.0))
    np.testing.assert_allclose(found_image.array[1:, 1:, 1:], image.array[:-1, :-1, :-1], atol=1e-4)
    np.testing.assert_array_equal(found_roi.array[1:, 1:, 1:], roi.array[:-1, :-1, :-1])


@pytest.mark.parametrize("angle", [-20.0, 7.0])
def test_rotation_turns_about_the_roi(angle):
    image, roi = pair()
    _, found = changed(Perturbation(angle, 0.0, 0, 0.0))
    np.testing.assert_allclose(centre_mm(found), centre_mm(roi), atol=0.3)
    assert found.array.sum() == pytest.approx(roi.array.sum(), rel=0.03)
    back = perturb(image, found, Perturbation(-angle, 0.0, 0, 0.0), noise_std=0, seed=0, case_id="c1")[1]
    overlap = 2 * (back.array & roi.array).sum() / (back.array.sum() + roi.array.sum())
    assert overlap > 0.95


def test_rotation_is_in_millimetres():
    """A square bar on a grid with unequal spacings keeps its length in mm when turned by 30 degrees."""
    array = np.zeros((4, 60, 60), np.bool_)
    array[:, 28:32, 15:45] = True  # 4 x 2 mm by 30 x 1 mm
    bar = Volume.from_geometry(array, spacing_mm=(3.0, 2.0, 1.0))
    image = bar.with_array(np.zeros(bar.shape))
    _, found = perturb(image, bar, Perturbation(30.0, 0.0, 0, 0.0), noise_std=0, seed=0, case_id="c1")

    def length(roi):
        places = np.argwhere(roi.array)[:, 1:] * roi.spacing_mm[1:]
        return np.sqrt(np.linalg.eigvalsh(np.cov(places.T)).max())

    assert length(found) == pytest.approx(length(bar), rel=0.03)


@settings(max_examples=25, deadline=None)
@given(share=st.floats(-0.9, 2.0))
def test_volume_change_reaches_its_target_and_is_nested(share):
    _, roi = pair()
    found = resize(roi, share=share)
    assert found.array.sum() == round((1 + share) * int(roi.array.sum()))
    inner, outer = (found.array, roi.array) if share < 0 else (roi.array, found.array)
    assert not (inner & ~outer).any()


def test_erosion_takes_the_border_first():
    _, roi = pair()
    eroded, grown = resize(roi, share=-0.2).array, resize(roi, share=0.2).array
    np.testing.assert_allclose(np.argwhere(eroded).mean(axis=0), np.argwhere(roi.array).mean(axis=0), atol=0.4)
    assert label(eroded)[1] == label(grown)[1] == 1


def test_eroding_everything_has_a_code():
    image, roi = pair()
    array = np.zeros(roi.shape, np.bool_)
    array[5, 10, 10] = True
    with pytest.raises(CaseError) as caught:
        perturb(image, roi.with_array(array), Perturbation(0, 0, 0, -0.8), noise_std=0, seed=0, case_id="c1")
    assert caught.value.code is Code.ROI_TOO_SMALL
    assert resize(roi.with_array(array), share=-0.1).array.sum() == 1


def test_noise_is_named_by_case_seed_and_draw():
    image, _ = pair()
    draw = Perturbation(0.0, 0.0, 1, 0.0)
    one = changed(draw)[0].array
    np.testing.assert_array_equal(changed(draw)[0].array, one)
    assert (one - image.array).std() == pytest.approx(10, rel=0.03)
    for other in (changed(Perturbation(0.0, 0.0, 2, 0.0))[0], changed(draw, seed=1)[0]):
        assert not np.array_equal(other.array, one)


@pytest.mark.parametrize("std", [3.0, 25.0])
def test_noise_level_is_found(std):
    rng = np.random.default_rng(0)
    smooth = np.broadcast_to(np.linspace(0, 400, 80)[None, None, :], (6, 80, 80))
    noisy = Volume.from_geometry(smooth + std * rng.standard_normal(smooth.shape))
    assert noise_level(noisy) == pytest.approx(std, rel=0.05)
    assert noise_level(Volume.from_geometry(np.ascontiguousarray(smooth))) < 0.5


def test_neighbourhood_holds_the_turned_roi():
    image, roi = pair()
    config = RobustnessConfig(rotations_deg=(-20, 20))
    near = neighbourhood(image, roi, config=config)
    assert near[0].shape == near[1].shape
    assert near[1].array.sum() == roi.array.sum()
    for change in perturbations(config):
        whole = perturb(image, roi, change, noise_std=0.0, seed=0, case_id="c1")[1]
        part = perturb(*near, change, noise_std=0.0, seed=0, case_id="c1")[1]
        assert part.array.sum() == whole.array.sum()
