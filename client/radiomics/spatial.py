"""Moran's I, Geary's C (IBSI reference manual 3.1.28, 3.1.29) and the local intensity peaks (3.2).

Moran and Geary compare every pair of voxels, weighted by 1 / distance. Both are sums over *offsets* of the ROI's
autocorrelation, so a Fourier transform replaces the n^2 pairs: exact, and seconds where pairs take hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.fft import fft2, next_fast_len, rfft

from client.radiomics.compiled import kernel

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

PEAK_RADIUS_MM = (3 / (4 * math.pi)) ** (1 / 3) * 10
"""Radius of a sphere of 1 cm3."""

BLOCK_VALUES = 1_500_000
"""Complex values of one array of frequencies at a time: 24 MB, of which a few are held."""


def moran_geary(roi: Mask, intensities: Array, *, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Moran's I and Geary's C.

    Parameters
    ----------
    roi : ndarray of bool, shape (D, H, W)
    intensities : ndarray of float64, shape (n_voxels,)
        In C order of the ROI.
    spacing_mm : sequence of 3 floats

    Returns
    -------
    tuple of float
        NaN for fewer than two voxels or constant intensities.
    """
    n = len(intensities)
    centred = intensities - intensities.mean()
    square = float(centred @ centred)
    if n < 2 or square == 0:
        return math.nan, math.nan
    mask = roi.astype(np.float64)
    values = np.zeros(roi.shape)
    values[roi] = centred
    weights, products, squares = _weighted_pairs(mask, values, spacing_mm)
    moran = n / weights * products / square
    geary = (n - 1) / (2 * weights) * (2 * squares - 2 * products) / square
    return moran, geary


def _weighted_pairs(mask: Array, values: Array, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Sums over ordered pairs of 1 / distance times: 1, the product of the values, the square of the first.

    By Parseval's theorem each is a sum over frequencies. The frequencies along W are taken in blocks, so memory stays
    bounded for an ROI of any size.
    """
    depth, rows, columns = mask.shape
    padded = (next_fast_len(2 * depth), next_fast_len(2 * rows), next_fast_len(2 * columns, real=True))
    n_frequencies = padded[2] // 2 + 1
    block = max(1, BLOCK_VALUES // (padded[0] * padded[1]))
    sums = np.zeros(3)
    for start in range(0, n_frequencies, block):
        chosen = slice(start, min(start + block, n_frequencies))
        weight = _weight_spectrum(padded, mask.shape, chosen, spacing_mm)
        number = np.arange(chosen.start, chosen.stop)
        twice = (number > 0) & (2 * number != padded[2])
        weight *= np.where(twice, 2.0, 1.0)
        of_mask, of_value, of_square = (_spectrum(part, padded, chosen) for part in (mask, values, values**2))
        sums[0] += (weight * np.abs(of_mask) ** 2).sum()
        sums[1] += (weight * np.abs(of_value) ** 2).sum()
        sums[2] += (weight * (of_mask * of_square.conj()).real).sum()
    sums /= math.prod(padded)
    return float(sums[0]), float(sums[1]), float(sums[2])


def _spectrum(array: Array, padded: Sequence[int], chosen: slice) -> npt.NDArray[np.complex128]:
    """Some frequencies along W, all along D and H, of a zero-padded array."""
    rows = np.stack([rfft(plane, n=padded[2], workers=1)[:, chosen] for plane in array])
    return fft2(rows, s=(padded[0], padded[1]), axes=(0, 1), workers=1)


def _weight_spectrum(padded: Sequence[int], shape: Sequence[int], chosen: slice, spacing_mm: Sequence[float]) -> Array:
    """The same frequencies of 1 / distance (0 for a voxel and itself) over cyclic offsets; real by symmetry."""
    d2, h2, w2 = (
        (np.minimum(np.arange(n), n - np.arange(n)) * spacing) ** 2
        for n, spacing in zip(padded, spacing_mm, strict=True)
    )
    half = np.empty((shape[0] + 1, shape[1] + 1, chosen.stop - chosen.start))
    for number in range(shape[0] + 1):
        square = d2[number] + h2[: shape[1] + 1, None] + w2
        inverse = np.zeros(square.shape)
        np.divide(1.0, np.sqrt(square), out=inverse, where=square > 0)
        half[number] = rfft(inverse, workers=1)[:, chosen].real
    # offsets beyond the ROI's extent meet only padding, so any finite weight may stand there
    d, h = (
        np.minimum(np.minimum(np.arange(n), n - np.arange(n)), m) for n, m in zip(padded[:2], shape[:2], strict=True)
    )
    real: Array = fft2(half[np.ix_(d, h)], axes=(0, 1), workers=1).real
    return real


def local_peaks(image: npt.NDArray[np.floating], roi: Mask, *, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Local and global intensity peak: the mean in a sphere of 1 cm3 around the brightest voxel, and the largest mean.

    Parameters
    ----------
    image : ndarray, shape (D, H, W)
        Intensities of the ROI and of at least ``PEAK_RADIUS_MM`` around it, as far as the image goes: voxels outside
        the ROI count in the means.
    roi : ndarray of bool, shape (D, H, W)
        The intensity ROI.
    """
    d, h = (math.floor(PEAK_RADIUS_MM / spacing) for spacing in spacing_mm[:2])
    grid = np.mgrid[-d : d + 1, -h : h + 1] * np.asarray(spacing_mm[:2], dtype=np.float64)[:, None, None]
    left = PEAK_RADIUS_MM**2 - (grid**2).sum(axis=0)
    reach = np.where(left >= 0, np.floor(np.sqrt(np.maximum(left, 0)) / spacing_mm[2]), -1).astype(np.int64)
    means = _sphere_means(image.astype(np.float64), roi, reach)
    values = image[roi]
    return float(means[values == values.max()].max()), float(means.max())


@kernel
def _sphere_means(image: Array, roi: Mask, reach: npt.NDArray[np.int64]) -> Array:
    """Mean over the sphere around each ROI voxel, in C order; ``reach[d, h]`` is half a row, -1 for none."""
    depth, rows, columns = image.shape
    sums = np.zeros((depth, rows, columns + 1))
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                sums[z, y, x + 1] = sums[z, y, x] + image[z, y, x]
    half_d, half_h = reach.shape[0] // 2, reach.shape[1] // 2
    means = np.empty(roi.sum())
    n = 0
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                if not roi[z, y, x]:
                    continue
                total = 0.0
                count = 0
                for dz in range(max(-half_d, -z), min(half_d, depth - 1 - z) + 1):
                    for dy in range(max(-half_h, -y), min(half_h, rows - 1 - y) + 1):
                        r = reach[dz + half_d, dy + half_h]
                        if r >= 0:
                            low = max(x - r, 0)
                            high = min(x + r + 1, columns)
                            total += sums[z + dz, y + dy, high] - sums[z + dz, y + dy, low]
                            count += high - low
                means[n] = total / count
                n += 1
    return means
