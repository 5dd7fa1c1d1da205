"""Texture matrices and spatial sums against slow oracles that count as the definitions read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from client.radiomics import gldzm, glrlm, glszm, mesh, spatial
from client.radiomics.discretise import GreyLevels, grey_levels, pyradiomics_bin_width
from client.radiomics.neighbourhood import DIRECTIONS_2D, DIRECTIONS_3D, count_neighbours

Scene = tuple[np.ndarray, np.ndarray]


@st.composite
def discretised(draw: st.DrawFn) -> Scene:
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    roi = generator.random(shape) < draw(st.sampled_from([0.4, 0.8, 1.0]))
    roi[tuple(n // 2 for n in shape)] = True
    levels = generator.integers(1, draw(st.integers(2, 6)), shape) * 2
    return levels, roi


def grey_of(scene: Scene) -> GreyLevels:
    levels, roi = scene
    return grey_levels(roi, levels[roi])


@given(discretised())
@settings(max_examples=60, deadline=None)
def test_neighbours(scene: Scene) -> None:
    levels, roi = scene
    grey = grey_of(scene)
    near = count_neighbours(grey, DIRECTIONS_3D)
    rank = {level: number for number, level in enumerate(grey.levels)}
    pairs = np.zeros_like(near.pairs)
    dependence = np.zeros_like(near.dependence)
    tone = np.zeros_like(near.tone_difference)
    for place in map(tuple, np.argwhere(roi)):
        around = []
        for offset in itertools.product((-1, 0, 1), repeat=3):
            other = tuple(np.add(place, offset))
            if (
                offset == (0, 0, 0)
                or any(a < 0 or a >= n for a, n in zip(other, roi.shape, strict=True))
                or not roi[other]
            ):
                continue
            around.append(levels[other])
            if offset in DIRECTIONS_3D:
                pairs[DIRECTIONS_3D.index(offset), rank[levels[place]], rank[levels[other]]] += 1
        dependence[rank[levels[place]], sum(level == levels[place] for level in around)] += 1
        if around:
            tone[rank[levels[place]]] += abs(levels[place] - np.mean(around))
    np.testing.assert_array_equal(near.pairs, pairs)
    np.testing.assert_array_equal(near.dependence, dependence)
    np.testing.assert_allclose(near.tone_difference, tone, atol=1e-12)


@given(discretised())
@settings(max_examples=60, deadline=None)
def test_slices_add_up(scene: Scene) -> None:
    grey = grey_of(scene)
    whole = count_neighbours(grey, DIRECTIONS_2D)
    parts = [count_neighbours(grey, DIRECTIONS_2D, slice_number=z) for z in range(scene[1].shape[0])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    np.testing.assert_array_equal(merged.pairs, whole.pairs)
    np.testing.assert_array_equal(merged.dependence, whole.dependence)
    runs = [glrlm.run_lengths(grey, DIRECTIONS_2D, slice_number=z) for z in range(scene[1].shape[0])]
    np.testing.assert_array_equal(sum(runs), glrlm.run_lengths(grey, DIRECTIONS_2D))


@given(discretised())
@settings(max_examples=60, deadline=None)
def test_run_lengths(scene: Scene) -> None:
    levels, roi = scene
    grey = grey_of(scene)
    rank = {level: number for number, level in enumerate(grey.levels)}
    found = glrlm.run_lengths(grey, DIRECTIONS_3D)
    values = np.pad(np.where(roi, levels, 0), 1)
    expected = np.zeros_like(found)
    for number, direction in enumerate(DIRECTIONS_3D):
        for place in map(tuple, np.argwhere(values)):
            level = values[place]
            if values[tuple(np.subtract(place, direction))] == level:
                continue
            length, here = 0, np.array(place)
            while values[tuple(here)] == level:
                length, here = length + 1, here + direction
            expected[number, rank[level], length - 1] += 1
    np.testing.assert_array_equal(found, expected)


@given(discretised())
@settings(max_examples=60, deadline=None)
def test_zones_and_their_distances(scene: Scene) -> None:
    levels, roi = scene
    grey = grey_of(scene)
    distances = gldzm.border_distances(roi, in_slice=False)
    zones = glszm.find_zones(grey, DIRECTIONS_3D, distances=distances)
    padded = np.pad(roi, 1)
    outside = np.argwhere(~padded)
    taxicab = np.zeros(padded.shape, dtype=int)
    inside = np.argwhere(padded)
    taxicab[padded] = cdist(inside, outside, "cityblock").min(axis=1)
    np.testing.assert_array_equal(distances, taxicab)
    expected = []
    for number, level in enumerate(grey.levels):
        labels, n = ndimage.label(np.pad(roi & (levels == level), 1), np.ones((3, 3, 3)))
        expected += [(number, int((labels == k).sum()), int(taxicab[labels == k].min())) for k in range(1, n + 1)]
    assert sorted(zip(zones.rank, zones.size, zones.distance, strict=True)) == sorted(expected)


@given(st.integers(0, 2**31), st.sampled_from([0.25, 1.0, 25.0, 3.7]), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_bins_are_those_of_numpy_digitize(seed: int, width: float, dtype: type) -> None:
    values = (np.random.default_rng(seed).normal(0, 40, 500) / width).round(1).astype(dtype) * dtype(width)
    low, high = min(values), max(values)
    edges = np.arange(low - low % width, high + 2 * width, width)
    np.testing.assert_array_equal(pyradiomics_bin_width(values, bin_width=width), np.digitize(values, edges))


@pytest.mark.parametrize("block", [1, 10**6])
def test_moran_and_geary_are_sums_over_pairs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(spatial, "BLOCK_VALUES", block)
    generator = np.random.default_rng(0)
    roi = generator.random((5, 7, 6)) < 0.6
    values = generator.normal(10, 3, roi.sum())
    spacing = np.array((2.0, 0.7, 1.1))
    distance = cdist(np.argwhere(roi) * spacing, np.argwhere(roi) * spacing)
    weight = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)
    centred = values - values.mean()
    moran = len(values) / weight.sum() * (centred @ weight @ centred) / (centred @ centred)
    geary = (
        (len(values) - 1) / (2 * weight.sum()) * (weight * (values[:, None] - values) ** 2).sum() / (centred @ centred)
    )
    assert spatial.moran_geary(roi, values, spacing_mm=tuple(spacing)) == pytest.approx((moran, geary), rel=1e-10)


def test_local_peaks_are_means_of_spheres() -> None:
    generator = np.random.default_rng(1)
    image = generator.normal(size=(9, 14, 15))
    roi = np.zeros(image.shape, dtype=bool)
    roi[3:6, :5, 4:10] = True
    spacing = np.array((3.0, 1.6, 1.9))
    places = np.argwhere(np.ones_like(roi)) * spacing
    means = [
        image.ravel()[np.linalg.norm(places - p, axis=1) <= spatial.PEAK_RADIUS_MM].mean()
        for p in np.argwhere(roi) * spacing
    ]
    local = means[int(image[roi].argmax())]
    assert spatial.local_peaks(image, roi, spacing_mm=tuple(spacing)) == pytest.approx((local, max(means)), rel=1e-10)


def test_mesh_of_a_single_voxel_is_an_octahedron() -> None:
    roi = np.ones((1, 1, 1), dtype=bool)
    area, volume = mesh.surface_and_volume(roi, spacing_mm=(1, 1, 1), table="symmetric")
    assert volume == pytest.approx(1 / 6)
    assert area == pytest.approx(np.sqrt(3))


@given(st.integers(0, 2**31), st.tuples(*[st.floats(0.4, 4)] * 3))
@settings(max_examples=40, deadline=None)
def test_mesh_and_diameters_equal_pyradiomics(seed: int, spacing: tuple[float, float, float]) -> None:
    from radiomics import cShape

    generator = np.random.default_rng(seed)
    roi = ndimage.gaussian_filter(generator.normal(size=tuple(generator.integers(2, 9, 3))), 0.5) > 0.1
    roi[1, 1, 1] = True
    area, volume, diameters = cShape.calculate_coefficients(np.pad(roi, 1), np.array(spacing))
    found = mesh.surface_and_volume(roi, spacing_mm=spacing, table="pyradiomics")
    assert found == pytest.approx((area, volume), rel=1e-9)
    corners = mesh.outer_points(roi) * np.array(spacing)
    assert (*mesh.plane_diameters(roi, spacing_mm=spacing), mesh.largest_distance(corners)) == pytest.approx(
        diameters, rel=1e-9
    )
