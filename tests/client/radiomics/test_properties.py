"""Laws of the features: what must not change them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.radiomics.extractor import extract
from client.radiomics.settings import RadiomicsSettings, preset
from common.volume import Volume
from tests.client.radiomics.conftest import scene

VOLUME = preset("pet").model_copy(
    update={"resampling": None, "resegmentation": None, "aggregations": ("3D_avg", "3D_comb")}
)
SLICES = preset("ibsi-a").model_copy(
    update={"resegmentation": None, "groups": ("cm", "rlm", "szm", "dzm", "ngt", "ngl")}
)


def values(image: Volume, roi: Volume, chosen: RadiomicsSettings) -> dict[str, float]:
    return {entry.column: entry.value for entry in extract(image, roi, chosen, case_id="case")}


def assert_same(a: dict[str, float], b: dict[str, float], *, rel: float = 1e-9) -> None:
    assert a.keys() == b.keys()
    different = {name: (a[name], b[name]) for name in a if a[name] != pytest.approx(b[name], rel=rel, abs=1e-12)}
    assert not different


def turned(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """Array axes in another order, some reversed, the affine with them."""
    array = volume.array.transpose(axes)
    affine = volume.affine[:, [*axes, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array), affine)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (True, True, True)])
def test_volume_features_do_not_see_flips_and_axis_order(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    image, roi = scene(2, (11, 14, 15), radii=(3, 5, 5))
    # a local peak at equal maxima would be ambiguous; the scene has one
    assert_same(
        values(image, roi, VOLUME), values(turned(image, axes, flips), turned(roi, axes, flips), VOLUME), rel=1e-7
    )


@pytest.mark.parametrize("flips", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)])
def test_slice_features_do_not_see_turns_in_the_slice(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    image, roi = scene(3)
    assert_same(values(image, roi, SLICES), values(turned(image, axes, flips), turned(roi, axes, flips), SLICES))


@given(st.tuples(*[st.integers(0, 6)] * 6), st.floats(-2000, 2000))
@settings(max_examples=15, deadline=None)
def test_padding_changes_nothing(widths: tuple[int, ...], filling: float) -> None:
    image, roi = scene(4, (9, 12, 13), radii=(3, 4, 4))
    pairs = [(widths[2 * k], widths[2 * k + 1]) for k in range(3)]
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array([before for before, _ in pairs])
    wide = Volume(np.pad(image.array, pairs, constant_values=np.float32(filling)), affine)
    wide_roi = Volume(np.pad(roi.array, pairs), affine)
    chosen = VOLUME.model_copy(update={"groups": tuple(g for g in VOLUME.groups if g != "loc")})  # reads around the ROI
    assert_same(values(image, roi, chosen), values(wide, wide_roi, chosen))


@pytest.mark.parametrize("name", ["fast", "ibsi-c", "pyradiomics", "ct-lung"])
def test_oblique_and_left_handed_affines_give_the_features_of_the_axis_aligned_copy(name: str) -> None:
    image, roi = scene(5)
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(1.1), -np.sin(1.1)], [0, np.sin(1.1), np.cos(1.1)]])
    expected = values(image, roi, preset(name))
    for matrix in (turn @ tilt, np.diag([-1.0, 1.0, 1.0]), turn @ np.diag([1.0, 1.0, -1.0])):
        affine = image.affine.copy()
        affine[:3, :3] = matrix @ affine[:3, :3]
        assert_same(expected, values(Volume(image.array, affine), Volume(roi.array, affine), preset(name)), rel=1e-6)


def test_intensity_shift_moves_only_what_it_should() -> None:
    image, roi = scene(6)
    chosen = preset("fast")
    before, after = values(image, roi, chosen), values(image.with_array(image.array + 512), roi, chosen)
    assert after["stat_mean"] == pytest.approx(before["stat_mean"] + 512)
    textures = {name: value for name, value in before.items() if name.startswith(("cm", "rlm", "szm", "ngt", "ngl"))}
    assert_same(textures, {name: after[name] for name in textures})


def test_grids_that_differ_by_rounding_are_one() -> None:
    image, roi = scene(7)
    affine = roi.affine.copy()
    affine[:3, 3] += 5e-3
    affine[:3, :3] += 1e-6
    assert_same(values(image, roi, preset("fast")), values(image, Volume(roi.array, affine), preset("fast")), rel=1e-5)


def test_equal_input_gives_equal_bits() -> None:
    image, roi = scene(8)
    assert values(image, roi, preset("ct-lung")) == values(image, roi, preset("ct-lung"))
