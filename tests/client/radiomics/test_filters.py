"""Filters against SimpleITK, PyWavelets and slow oracles: a box equals the same box of the filtered whole image."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from client.imaging.resample import Region
from client.radiomics.filters import FilterError, Scene, filter_names, filtered_images
from client.radiomics.local_binary import icosphere, in_slices
from client.radiomics.recursive_gaussian import laplacian_of_gaussian
from client.radiomics.settings import Gradient, LaplacianOfGaussian, LocalBinary2D, LocalBinary3D, Pointwise, Wavelet

SPACING = (2.5, 0.8, 0.9)
FILTERS = [
    Wavelet(kind="wavelet"),
    LaplacianOfGaussian(kind="log", sigmas_mm=(1.0, 2.5)),
    *(Pointwise(kind=kind) for kind in ("square", "squareroot", "logarithm", "exponential")),
    Gradient(kind="gradient"),
    LocalBinary2D(kind="lbp_2d"),
    LocalBinary3D(kind="lbp_3d"),
]


def image(dtype: type = np.float32, shape: tuple[int, int, int] = (21, 40, 47)) -> np.ndarray:
    return np.random.default_rng(0).normal(20, 300, shape).round().astype(dtype)


def scene(array: np.ndarray, box: Region) -> Scene:
    return Scene(array, box, SPACING, float(np.abs(array).max()))


@pytest.mark.parametrize("chosen", FILTERS, ids=lambda chosen: chosen.kind)
def test_a_box_is_cut_from_the_whole(chosen: object) -> None:
    array = image(np.float64, (46, 50, 53))
    box = Region((20, 22, 21), (25, 27, 29))
    whole = Region((0, 0, 0), array.shape)
    names = []
    for (name, part), (_, full) in zip(
        filtered_images(scene(array, box), chosen), filtered_images(scene(array, whole), chosen), strict=True
    ):
        names.append(name)
        np.testing.assert_allclose(part, full[box.slices], rtol=1e-6, atol=1e-5 * np.abs(full).max())
    assert tuple(names) == filter_names(chosen)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0])
def test_laplacian_equals_itk_to_the_last_bit(dtype: type, sigma: float) -> None:
    array = image(dtype)
    itk = sitk.GetImageFromArray(array)
    itk.SetSpacing(SPACING[::-1])
    expected = sitk.GetArrayFromImage(sitk.LaplacianRecursiveGaussian(itk, sigma, True))
    found = laplacian_of_gaussian(array, sigma_mm=sigma, spacing_mm=SPACING, start=(3, 4, 5), stop=(20, 33, 47))
    np.testing.assert_array_equal(found, expected[3:20, 4:33, 5:47])


def test_gradient_equals_itk() -> None:
    array = image()
    itk = sitk.GetImageFromArray(array)
    itk.SetSpacing(SPACING[::-1])
    expected = sitk.GetArrayFromImage(sitk.GradientMagnitude(itk))
    for box in (Region((0, 0, 0), array.shape), Region((3, 2, 40), (9, 7, 47))):
        _, found = next(filtered_images(scene(array, box), Gradient(kind="gradient")))
        np.testing.assert_allclose(found, expected[box.slices], rtol=1e-6)


@pytest.mark.parametrize("kind", ["square", "squareroot", "logarithm", "exponential"])
def test_pointwise_filters_equal_pyradiomics(kind: str) -> None:
    from radiomics import imageoperations

    names = {"square": "Square", "squareroot": "SquareRoot", "logarithm": "Logarithm", "exponential": "Exponential"}
    array = image()
    reference = next(getattr(imageoperations, f"get{names[kind]}Image")(sitk.GetImageFromArray(array), None))[0]
    box = Region((3, 2, 40), (9, 7, 47))
    _, found = next(filtered_images(scene(array, box), Pointwise(kind=kind)))
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(reference)[box.slices], rtol=1e-12)


def test_wavelet_equals_pyradiomics_at_the_border_and_inside() -> None:
    from radiomics import imageoperations

    array = image(shape=(15, 22, 31))
    expected = {
        name: sitk.GetArrayFromImage(band)
        for band, name, _ in imageoperations.getWaveletImage(sitk.GetImageFromArray(array), None)
    }
    for box in (Region((1, 0, 12), (6, 9, 20)), Region((5, 7, 12), (9, 15, 20))):
        found = dict(filtered_images(scene(array, box), Wavelet(kind="wavelet")))
        assert set(found) == set(expected)
        for name, band in found.items():
            np.testing.assert_array_equal(band, expected[name][box.slices])


def test_binary_patterns_by_hand() -> None:
    plane = np.zeros((1, 3, 3))
    plane[0, 1, 1] = 5
    # nothing around is brighter: no sample counts
    assert in_slices(plane, radius=1, n_samples=4)[0, 1, 1] == 0
    plane[0, 1, 1] = 0
    assert in_slices(plane, radius=1, n_samples=4)[0, 1, 1] == 4
    plane[0, 1] = (1, 0, 1)
    plane[0, 0, 1] = plane[0, 2, 1] = -1
    # bright, dark, bright, dark around the circle: four changes
    assert in_slices(plane, radius=1, n_samples=4)[0, 1, 1] == 5


def test_icosphere_is_even() -> None:
    for n_subdivisions, n_points in [(0, 12), (1, 42), (2, 162)]:
        points = icosphere(n_subdivisions)
        assert points.shape == (n_points, 3)
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
        np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)


def test_too_short_an_axis_is_refused_by_name() -> None:
    array = image(shape=(3, 20, 20))
    with pytest.raises(FilterError, match=r"3 voxels of 2\.5 mm"):
        next(
            filtered_images(
                scene(array, Region((0, 5, 5), (2, 9, 9))), LaplacianOfGaussian(kind="log", sigmas_mm=(1.0,))
            )
        )
