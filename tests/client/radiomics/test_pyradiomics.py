"""The pyradiomics preset against pyradiomics 3.0.1: equal to 1e-6 relative, name by name."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.imaging.itk import volume_from_itk, volume_to_itk
from client.radiomics.extractor import extract, feature_names
from client.radiomics.settings import RadiomicsSettings, preset
from common.volume import Volume
from tests.client.radiomics.conftest import scene

radiomics = pytest.importorskip("radiomics")

TOLERANCE = 1e-6


def oracle(image: Volume, roi: Volume, *, filters: bool) -> dict[str, float]:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    extractor = RadiomicsFeatureExtractor(additionalInfo=False)
    extractor.enableAllFeatures()
    extractor.enableFeatureClassByName("shape2D", False)
    if filters:
        extractor.enableImageTypes(Wavelet={}, LoG={"sigma": [1.0, 3.0, 5.0]})
    result = extractor.execute(volume_to_itk(image), volume_to_itk(roi))
    return {name: float(value) for name, value in result.items() if not name.startswith("diagnostics")}


def check(image: Volume, roi: Volume, settings: RadiomicsSettings) -> None:
    expected = oracle(image, roi, filters=bool(settings.filters))
    found = {entry.column: entry.value for entry in extract(image, roi, settings, case_id="case")}
    assert set(found) == set(expected) == set(feature_names(settings))
    wrong = {
        name: (found[name], value)
        for name, value in expected.items()
        if not np.isclose(found[name], value, rtol=TOLERANCE, atol=0)
    }
    assert not wrong


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_all_1130_features(dtype: type) -> None:
    settings = preset("pyradiomics")
    assert len(feature_names(settings)) == 1130
    check(*scene(1, dtype=dtype), settings)


@pytest.mark.parametrize("seed", range(4))
def test_107_features_of_other_scenes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = tuple(int(n) for n in generator.integers(8, 24, 3))
    image, roi = scene(
        seed, (shape[0], shape[1], shape[2]), spacing_mm=(1.7, 1.1, 0.6), radii=(3, 5, 6), levels=10 * (seed + 1)
    )
    settings = preset("pyradiomics-original")
    assert len(feature_names(settings)) == 107
    check(image, roi, settings)


def test_roi_at_the_border_of_an_odd_image() -> None:
    image, roi = scene(3, (11, 21, 25))
    array = roi.array.copy()
    array[:4, :9, :] = True
    check(image, roi.with_array(array), preset("pyradiomics"))


def test_roi_in_one_slice() -> None:
    image, roi = scene(4)
    array = np.zeros_like(roi.array)
    array[7] = roi.array[9]
    check(image, roi.with_array(array), preset("pyradiomics-original"))


def test_scattered_voxels_leave_out_the_same_directions() -> None:
    image, roi = scene(5)
    array = np.zeros_like(roi.array)
    array[4, 5, 5:9] = array[8, 20, 20] = array[9, 21, 20] = True
    check(image, roi.with_array(array), preset("pyradiomics-original"))


def test_one_grey_level() -> None:
    image, roi = scene(6)
    flat = np.where(np.indices(image.shape).sum(axis=0) % 2 == 0, 101.0, 103.0).astype(np.float32)
    check(image.with_array(flat), roi, preset("pyradiomics-original"))


def test_bin_count() -> None:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    image, roi = scene(7)
    settings = preset("pyradiomics-original").model_copy(
        update={"discretisation": preset("fast").discretisation, "groups": ("cm",)}
    )
    extractor = RadiomicsFeatureExtractor(additionalInfo=False, binCount=32)
    extractor.disableAllFeatures()
    extractor.enableFeatureClassByName("glcm")
    expected = extractor.execute(volume_to_itk(image), volume_to_itk(roi))
    for entry in extract(image, roi, settings, case_id="case"):
        assert entry.value == pytest.approx(float(expected[entry.column]), rel=TOLERANCE)


def test_tumours_of_the_shared_data(sts_data: Path) -> None:
    for case in ("STS_019/PET", "STS_025/CT"):
        image = volume_from_itk(sitk.ReadImage(sts_data / f"{case}_image.nii.gz"))
        mask = volume_from_itk(sitk.ReadImage(sts_data / f"{case}_mask.nii.gz"))
        check(image, mask.with_array(mask.array == 1), preset("pyradiomics"))
