"""Input that breaks extractors: a named code, or defined values; never NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from client.radiomics.extractor import extract
from client.radiomics.settings import preset, preset_names
from common.errors import CaseError, Code
from common.volume import Volume
from tests.client.radiomics.conftest import scene


def code_of(image: Volume, roi: Volume, name: str = "fast") -> Code:
    with pytest.raises(CaseError) as caught:
        extract(image, roi, preset(name), case_id="case 7")
    assert "case 7" in str(caught.value)
    return caught.value.code


def marked(roi: Volume, *places: tuple[int | slice, ...]) -> Volume:
    array = np.zeros_like(roi.array)
    for place in places:
        array[place] = True
    return roi.with_array(array)


@pytest.mark.parametrize("name", ["fast", "pyradiomics", "ibsi-c", "ct-lung"])
def test_empty_and_single_voxel(name: str) -> None:
    image, roi = scene()
    assert code_of(image, marked(roi), name) == Code.ROI_EMPTY
    assert code_of(image, marked(roi, (5, 5, 5)), "pyradiomics") == Code.ROI_TOO_SMALL
    assert code_of(image, marked(roi, (5, 5, 5))) == Code.ROI_TOO_SMALL


def test_smaller_than_a_voxel_of_the_study_grid() -> None:
    image, roi = scene(spacing_mm=(0.3, 0.3, 0.3))
    assert code_of(image, marked(roi, (5, 5, 5)), "ibsi-c") == Code.ROI_TOO_SMALL


def test_one_slice_is_named_where_form_is_undefined_and_worked_where_it_is_not() -> None:
    image, roi = scene()
    flat = marked(roi, (6, slice(5, 15), slice(5, 15)))
    assert code_of(image, flat, "fast") == Code.ONE_SLICE
    assert len(extract(image, flat, preset("pyradiomics-original"), case_id="case")) == 107
    textures = preset("ibsi-a").model_copy(update={"groups": ("stat", "ih", "cm", "rlm", "szm", "dzm", "ngt", "ngl")})
    assert all(np.isfinite(entry.value) for entry in extract(image, flat, textures, case_id="case"))


@pytest.mark.parametrize("name", preset_names())
def test_parts_holes_and_borders_give_finite_values(name: str) -> None:
    image, roi = scene(1, shape=(16, 30, 31))
    array = roi.array.copy()
    array[:3] |= True
    if name == "ibsi-digital":
        image = image.with_array(np.clip(np.round(image.array / 20), 1, 6))
    entries = extract(image, roi.with_array(array), preset(name), case_id="case")
    assert all(np.isfinite(entry.value) for entry in entries)
    assert len({entry.column for entry in entries}) == len(entries)


def test_grids() -> None:
    image, roi = scene()
    moved = roi.affine.copy()
    moved[:3, 3] += 0.5
    assert code_of(image, Volume(roi.array, moved)) == Code.GRID_MISMATCH
    assert code_of(image, roi.crop((0, 0, 0), (18, 30, 33))) == Code.GRID_MISMATCH


@pytest.mark.parametrize("name", ["fast", "pyradiomics", "ibsi-c"])
def test_constant_intensity_is_excluded_by_name(name: str) -> None:
    image, roi = scene()
    assert code_of(image.with_array(np.full(image.shape, 7.0)), roi, name) == Code.INTENSITY_CONSTANT


def test_nothing_left_in_the_range() -> None:
    image, roi = scene()
    assert code_of(image.with_array(image.array + 5000), roi, "ibsi-a") == Code.INTENSITY_OUT_OF_RANGE


def test_not_finite() -> None:
    image, roi = scene()
    array = image.array.copy()
    array[9, 15, 12] = np.nan
    assert roi.array[9, 15, 12]
    assert code_of(image.with_array(array), roi) == Code.VOXELS_NOT_FINITE


def test_an_undefined_feature_is_named() -> None:
    image, roi = scene()
    values = np.where(np.indices(image.shape).sum(axis=0) % 2 == 0, -1.0, 1.0)
    block = marked(roi, (slice(4, 6), slice(4, 8), slice(4, 8)))
    with pytest.raises(CaseError, match="stat_cov") as caught:
        extract(image.with_array(values), block, preset("fast"), case_id="case")
    assert caught.value.code == Code.FEATURE_UNDEFINED


def test_too_many_grey_levels() -> None:
    image, roi = scene(shape=(30, 60, 60), radii=(12, 25, 25))
    wide = np.random.default_rng(0).normal(0, 1e6, image.shape)
    assert code_of(image.with_array(wide), roi, "pyradiomics-original") == Code.FEATURE_UNDEFINED


def test_full_range_of_16_bit_integers_does_not_overflow() -> None:
    image, roi = scene(2)
    levels = np.clip(image.array.astype(np.float64) * 200, -32768, 32767).astype(np.int16)
    levels[9, 15, 12:14] = -32768, 32767
    wide = preset("pyradiomics").discretisation.model_copy(update={"bin_width": 2000.0})
    pyradiomics = preset("pyradiomics").model_copy(update={"discretisation": wide, "filtered_discretisation": wide})
    for chosen in (pyradiomics, preset("fast")):
        short = extract(image.with_array(levels), roi, chosen, case_id="case")
        double = extract(image.with_array(levels.astype(np.float64)), roi, chosen, case_id="case")
        for a, b in zip(short, double, strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-6), a.column


@pytest.mark.parametrize(
    "spoil", [lambda v: v.with_array(v.array > 0), lambda v: v.with_array(v.array.astype(complex))]
)
def test_wrong_kinds_of_arrays_are_programming_errors(spoil: Callable[[Volume], Volume]) -> None:
    image, roi = scene()
    with pytest.raises(TypeError):
        extract(spoil(image), roi, preset("fast"), case_id="case")
    with pytest.raises(TypeError):
        extract(image, roi.with_array(roi.array.astype(np.uint8)), preset("fast"), case_id="case")
