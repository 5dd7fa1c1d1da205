from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.volume import (
    DIRECTION_TOLERANCE,
    ORIGIN_TOLERANCE_MM,
    SPACING_TOLERANCE_MM,
    Volume,
    grid_difference,
    same_grid,
)

ARRAY = np.arange(24.0).reshape(2, 3, 4)


def turned(degrees: float) -> np.ndarray:
    """Columns D, H, W of an axial stack that is turned about z."""
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])[:, ::-1].copy()


def volume(*, spacing=(3.0, 1.0, 0.8), origin=(-100.0, 50.0, 800.0), degrees=0.0, array=ARRAY) -> Volume:
    return Volume.from_geometry(array, spacing_mm=spacing, origin_mm=origin, direction=turned(degrees))


@settings(max_examples=50)
@given(st.tuples(*[st.floats(0.1, 10)] * 3), st.tuples(*[st.floats(-500, 500)] * 3), st.floats(-180, 180))
def test_geometry_comes_back(spacing: tuple[float, ...], origin: tuple[float, ...], degrees: float):
    found = volume(spacing=spacing, origin=origin, degrees=degrees)
    assert found.spacing_mm == pytest.approx(spacing)
    assert found.origin_mm == pytest.approx(origin)
    np.testing.assert_allclose(found.direction, turned(degrees), atol=1e-12)
    assert found.voxel_volume_mm3 == pytest.approx(np.prod(spacing))


def test_an_axial_stack_runs_along_z_y_x():
    axial = Volume.from_geometry(ARRAY, spacing_mm=(3, 2, 1), origin_mm=(10, 20, 30))
    np.testing.assert_allclose(axial.affine @ [1, 0, 0, 1], [10, 20, 33, 1])
    np.testing.assert_allclose(axial.affine @ [0, 1, 0, 1], [10, 22, 30, 1])
    np.testing.assert_allclose(axial.affine @ [0, 0, 1, 1], [11, 20, 30, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_spacing_within_its_tolerance_is_one_grid(axis: int, factor: float):
    spacing = np.array([3.0, 1.0, 0.8])
    spacing[axis] += factor * SPACING_TOLERANCE_MM
    other = volume(spacing=tuple(spacing))
    assert same_grid(volume(), other) == same_grid(other, volume()) == (factor < 1)
    assert ("spacing" in grid_difference(volume(), other)) == (factor > 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_origin_within_its_tolerance_is_one_grid(axis: int, factor: float):
    origin = np.array([-100.0, 50.0, 800.0])
    origin[axis] -= factor * ORIGIN_TOLERANCE_MM
    other = volume(origin=tuple(origin))
    assert same_grid(volume(), other) == same_grid(other, volume()) == (factor < 1)
    assert ("origin" in grid_difference(volume(), other)) == (factor > 1)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_direction_within_its_tolerance_is_one_grid(factor: float):
    other = volume(degrees=float(np.rad2deg(factor * DIRECTION_TOLERANCE)))
    assert same_grid(volume(), other) == same_grid(other, volume()) == (factor < 1)
    assert ("direction" in grid_difference(volume(), other)) == (factor > 1)


def test_another_shape_and_a_mirrored_axis_are_another_grid():
    assert "shape (3, 2, 4), expected (2, 3, 4)" in grid_difference(volume(), volume(array=ARRAY.reshape(3, 2, 4)))
    mirrored = Volume(ARRAY, volume().affine @ np.diag([1, 1, -1, 1]))
    assert "direction" in grid_difference(volume(), mirrored)


def test_the_difference_says_got_and_expected():
    assert grid_difference(volume(), volume(spacing=(2.5, 1.0, 0.8))) == (
        "spacing 2.5 x 1 x 0.8 mm, expected 3 x 1 x 0.8 mm"
    )
    assert grid_difference(volume(), volume()) == ""


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((2, 2)), np.eye(4), "3 axes"),
        (np.zeros((2, 2, 2, 2)), np.eye(4), "3 axes"),
        (np.zeros((2, 2, 2)), np.eye(3), "4 x 4"),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan), "finite"),
        (np.zeros((2, 2, 2)), np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
    ],
)
def test_what_is_no_volume_is_refused(array: np.ndarray, affine: np.ndarray, reason: str):
    with pytest.raises(ValueError, match=reason):
        Volume(array, affine)


@given(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3))
def test_a_voxel_keeps_its_place_when_cropped(d: int, h: int, w: int):
    whole = volume(degrees=20)
    part = whole.crop((d, h, w), (2, 3, 4))
    assert part.array[0, 0, 0] == whole.array[d, h, w]
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], whole.affine @ [d, h, w, 1])


@pytest.mark.parametrize(("start", "stop"), [((-1, 0, 0), (2, 3, 4)), ((0, 0, 0), (3, 3, 4)), ((1, 1, 1), (1, 3, 4))])
def test_a_window_beyond_the_volume_is_refused(start: tuple[int, ...], stop: tuple[int, ...]):
    with pytest.raises(ValueError, match="does not lie in a volume"):
        volume().crop(start, stop)


def test_another_array_keeps_the_grid():
    assert same_grid(volume(), volume().with_array(ARRAY > 3))
    with pytest.raises(ValueError, match="does not fit the grid"):
        volume().with_array(np.zeros((4, 3, 2)))
