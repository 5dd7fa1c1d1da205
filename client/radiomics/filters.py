"""Image filters with the definitions and names of pyradiomics 3.0.1, computed only where the ROI needs them.

Each filter gives the filtered image in a box (the ROI's bounding box), equal to the same box of the filtered whole
image: it reads as far around the box as the filter reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pywt

from client.imaging.resample import Region
from client.radiomics import local_binary, recursive_gaussian
from client.radiomics.settings import (
    Filter,
    Gradient,
    LaplacianOfGaussian,
    LocalBinary2D,
    LocalBinary3D,
    Pointwise,
    Wavelet,
)

Floats = npt.NDArray[np.floating]
Real = npt.NDArray[np.generic]

WAVELET_BANDS = ("LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH", "LLL")
"""Low or high pass along x, y, z, in pyradiomics' order."""


class FilterError(ValueError):
    """The image is too small for a filter."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and the box of it that is wanted.

    Parameters
    ----------
    array : ndarray, shape (D, H, W)
        Intensities; the filters read around the box as far as they reach.
    box : Region
    spacing_mm : tuple of 3 floats
        Along D, H, W.
    magnitude : float
        Largest absolute intensity of the whole image, which the pointwise filters scale to.
    """

    array: Real
    box: Region
    spacing_mm: tuple[float, float, float]
    magnitude: float

    def around(self, margins: Sequence[int], *, whole_at_border: bool = False) -> tuple[Real, Region]:
        """A view of the box and ``margins`` voxels around it, and the box in that view.

        With ``whole_at_border`` an axis whose margin would leave the image is taken whole, as circular filters need.
        """
        low, high = [], []
        for a, b, n, margin in zip(self.box.start, self.box.stop, self.array.shape, margins, strict=True):
            outside = a - margin < 0 or b + margin > n
            low.append(0 if whole_at_border and outside else max(a - margin, 0))
            high.append(n if whole_at_border and outside else min(b + margin, n))
        view = self.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        start = [a - c for a, c in zip(self.box.start, low, strict=True)]
        stop = [b - c for b, c in zip(self.box.stop, low, strict=True)]
        return view, Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def filter_names(chosen: Filter) -> tuple[str, ...]:
    """Names of the images that a filter gives, known before any image is seen."""
    match chosen:
        case Wavelet():
            return tuple(f"wavelet-{band}" for band in WAVELET_BANDS)
        case LaplacianOfGaussian():
            return tuple(f"log-sigma-{str(float(sigma)).replace('.', '-')}-mm-3D" for sigma in chosen.sigmas_mm)
        case Pointwise():
            return (chosen.kind,)
        case Gradient():
            return ("gradient",)
        case LocalBinary2D():
            return ("lbp-2D",)
        case LocalBinary3D():
            return (*(f"lbp-3D-m{level + 1}" for level in range(chosen.n_levels)), "lbp-3D-k")


def reach_mm(chosen: Filter, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """How far around the box a filter reads, along D, H, W."""
    match chosen:
        case Wavelet():
            voxels = float(pywt.Wavelet(chosen.wavelet).dec_len)
        case LaplacianOfGaussian():
            far = max(chosen.sigmas_mm) * recursive_gaussian.REACH_SIGMAS
            return far, far, far
        case Pointwise():
            voxels = 0.0
        case Gradient():
            voxels = 1.0
        case LocalBinary2D():
            voxels = chosen.radius_voxels + 1
        case LocalBinary3D():
            voxels = chosen.radius_voxels + local_binary.SPLINE_REACH
    d, h, w = spacing_mm
    return voxels * d, voxels * h, voxels * w


def filtered_images(scene: Scene, chosen: Filter) -> Iterator[tuple[str, Floats]]:
    """Name and box of each filtered image; one is in memory at a time, but for the wavelet's bands.

    Raises
    ------
    FilterError
        The image has too few voxels along an axis.
    """
    names = filter_names(chosen)
    match chosen:
        case Wavelet():
            yield from zip(names, _wavelet(scene, chosen.wavelet), strict=True)
        case LaplacianOfGaussian():
            for name, sigma in zip(names, chosen.sigmas_mm, strict=True):
                yield name, _laplacian(scene, sigma)
        case Pointwise():
            yield names[0], _pointwise(scene, chosen.kind)
        case Gradient():
            yield names[0], _gradient(scene)
        case LocalBinary2D():
            reach = math.ceil(chosen.radius_voxels) + 1
            view, box = scene.around((0, reach, reach))
            patterns = local_binary.in_slices(view, radius=chosen.radius_voxels, n_samples=chosen.n_samples)
            yield names[0], patterns[box.slices]
        case LocalBinary3D():
            reach = math.ceil(chosen.radius_voxels) + local_binary.SPLINE_REACH
            view, box = scene.around((reach, reach, reach))
            images = local_binary.on_sphere(
                view,
                box=box,
                radius=chosen.radius_voxels,
                n_subdivisions=chosen.n_subdivisions,
                n_levels=chosen.n_levels,
            )
            yield from zip(names, images, strict=True)


def _wavelet(scene: Scene, wavelet: str) -> list[Floats]:
    """One level of the stationary wavelet transform; an odd axis is wrapped by one voxel, as pyradiomics does."""
    reach = pywt.Wavelet(wavelet).dec_len // 2
    view, box = scene.around((reach,) * 3, whole_at_border=True)
    even = np.pad(view, [(0, n % 2) for n in view.shape], mode="wrap")
    bands = pywt.swtn(even, wavelet, level=1, start_level=0, axes=(2, 1, 0))[0]
    letters = str.maketrans("LH", "ad")
    return [np.ascontiguousarray(bands[band.translate(letters)][box.slices]) for band in WAVELET_BANDS]


def _laplacian(scene: Scene, sigma_mm: float) -> Floats:
    for n, spacing in zip(scene.array.shape, scene.spacing_mm, strict=True):
        least = max(recursive_gaussian.MIN_VOXELS, math.ceil(sigma_mm / spacing) + 1)
        if n < least:
            raise FilterError(f"an axis of {n} voxels of {spacing:g} mm is too short for sigma {sigma_mm:g} mm")
    view, box = scene.around([math.ceil(recursive_gaussian.REACH_SIGMAS * sigma_mm / s) for s in scene.spacing_mm])
    exact: Floats = view.astype(view.dtype if view.dtype in (np.float32, np.float64) else np.float32, copy=False)
    return recursive_gaussian.laplacian_of_gaussian(
        exact, sigma_mm=sigma_mm, spacing_mm=scene.spacing_mm, start=box.start, stop=box.stop
    )


def _pointwise(scene: Scene, kind: str) -> Floats:
    values = scene.array[scene.box.slices].astype(np.float64)
    largest = scene.magnitude
    if largest == 0:
        return values if kind != "exponential" else np.ones_like(values)
    if kind == "square":
        return (values / math.sqrt(largest)) ** 2
    if kind == "squareroot":
        return np.sign(values) * np.sqrt(np.abs(values) * largest)
    if kind == "logarithm":
        return np.sign(values) * np.log1p(np.abs(values)) * (largest / math.log(largest + 1))
    return np.exp(values * (math.log(largest) / largest))


def _gradient(scene: Scene) -> Floats:
    """Central differences, in single precision as ITK gives them; beyond the border the nearest voxel is repeated."""
    view, box = scene.around((1, 1, 1))
    padded = np.pad(view.astype(np.float64), 1, mode="edge")
    square = np.zeros(box.shape)
    inner = [slice(a + 1, b + 1) for a, b in zip(box.start, box.stop, strict=True)]
    for axis, spacing in enumerate(scene.spacing_mm):
        after, before = list(inner), list(inner)
        after[axis] = slice(inner[axis].start + 1, inner[axis].stop + 1)
        before[axis] = slice(inner[axis].start - 1, inner[axis].stop - 1)
        square += ((padded[tuple(after)] - padded[tuple(before)]) / (2 * spacing)) ** 2
    return np.sqrt(square).astype(np.float32)
