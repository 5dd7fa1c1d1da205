from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.imaging import NYUL_PERCENTILES
from common.errors import StatisticError
from common.outcomes import ScalarOutcome
from common.statistics.nyul import (
    SCALE,
    image_percentiles,
    landmark_table,
    learn_landmarks,
    on_scale,
    standardise_intensity,
)
from common.statistics.procedure import Cohort, ask_cohorts, run

IDS = [f"case-{i:02d}" for i in range(12)]


def values_of(case: int, *, n: int = 2000) -> np.ndarray:
    """Two tissues, with a gain and an offset of the case's own."""
    rng = np.random.default_rng(case)
    tissues = np.concatenate([rng.normal(100, 12, n), rng.normal(200, 15, n + n // 3)])
    return rng.uniform(0.5, 3) * tissues + rng.uniform(-50, 50)


def cohort(cases):
    found = {IDS[i]: image_percentiles(values_of(i), NYUL_PERCENTILES) for i in cases}
    table = landmark_table("t1", NYUL_PERCENTILES, found)
    return Cohort(table, table, ScalarOutcome(np.zeros(len(found)), "ml"), ("a",) * len(found))


@settings(max_examples=20, deadline=None)
@given(dealt=st.lists(st.integers(0, 3), min_size=len(IDS), max_size=len(IDS)))
def test_landmarks_of_parts_are_landmarks_of_the_whole(dealt):
    sites = [cohort([i for i, site in enumerate(dealt) if site == k]) for k in range(4)]
    whole = np.mean([on_scale(image_percentiles(values_of(i), NYUL_PERCENTILES)) for i in range(len(IDS))], axis=0)
    found = run(learn_landmarks("t1", NYUL_PERCENTILES), ask_cohorts(sites))
    np.testing.assert_allclose(found, whole, rtol=1e-13, atol=1e-12)
    assert (found[0], found[-1]) == SCALE


def test_no_case_gives_no_landmarks():
    with pytest.raises(StatisticError, match="no case gave percentiles of image t1"):
        run(learn_landmarks("t1", NYUL_PERCENTILES), ask_cohorts([cohort([])]))


def test_landmarks_must_rise():
    found = {IDS[0]: np.array([0.0, 5.0, 5.0, 9.0])}
    table = landmark_table("t1", (1, 40, 60, 99), found)
    site = Cohort(table, table, ScalarOutcome(np.zeros(1), "ml"), ("a",))
    with pytest.raises(StatisticError, match="do not rise"):
        run(learn_landmarks("t1", (1, 40, 60, 99)), ask_cohorts([site]))


def test_images_of_one_scene_meet():
    """Gain and offset are forgotten; after standardisation the percentiles are the landmarks."""
    landmarks = run(learn_landmarks("t1", NYUL_PERCENTILES), ask_cohorts([cohort(range(12))]))
    for case in range(4):
        values = values_of(case)
        found = image_percentiles(values, NYUL_PERCENTILES)
        mapped = standardise_intensity(values, found=found, landmarks=landmarks)
        np.testing.assert_allclose(image_percentiles(mapped, NYUL_PERCENTILES), landmarks, atol=0.05)
        other = 1.7 * values - 30
        again = standardise_intensity(other, found=image_percentiles(other, NYUL_PERCENTILES), landmarks=landmarks)
        np.testing.assert_allclose(again, mapped, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100))
def test_mapping_keeps_the_order_of_voxels(seed):
    values = np.random.default_rng(seed).normal(size=500) ** 3
    found = image_percentiles(values, NYUL_PERCENTILES)
    landmarks = np.linspace(0, 1, len(NYUL_PERCENTILES)) ** 2 * 100
    order = np.argsort(values)
    assert (np.diff(standardise_intensity(values, found=found, landmarks=landmarks)[order]) >= 0).all()


def test_own_percentiles_are_identity():
    values = values_of(3)
    found = image_percentiles(values, NYUL_PERCENTILES)
    np.testing.assert_allclose(standardise_intensity(values, found=found, landmarks=found), values, atol=1e-9)


def test_ties_are_one_knot():
    found = np.array([0.0, 0.0, 10.0])
    mapped = standardise_intensity(np.array([-5.0, 0.0, 5.0, 10.0, 20.0]), found=found, landmarks=(0.0, 20.0, 110.0))
    np.testing.assert_allclose(mapped, [-40.0, 10.0, 60.0, 110.0, 210.0])


def test_constant_image():
    with pytest.raises(StatisticError, match="span no range"):
        on_scale(np.full(3, 7.0))
    with pytest.raises(StatisticError, match="constant"):
        standardise_intensity(np.ones(3), found=np.full(3, 7.0), landmarks=(0.0, 1.0, 2.0))


def test_dtype_and_shape_are_kept():
    array = values_of(1).astype(np.float32).reshape(2, -1)
    mapped = standardise_intensity(array, found=np.array([0.0, 200.0]), landmarks=(0.0, 1.0))
    assert (mapped.dtype, mapped.shape) == (np.float32, array.shape)
