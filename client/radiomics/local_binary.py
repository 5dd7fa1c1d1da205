"""Local binary patterns in slices (Ojala 2002) and on a sphere (Banerjee 2012), as pyradiomics 3.0.1 defines them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates
from scipy.special import sph_harm_y

from client.imaging.resample import Region

Real = npt.NDArray[Any]
Array = npt.NDArray[np.float64]

COORDINATE_DECIMALS = 5
"""Sample positions in the slice are rounded to this many decimals, so that exact neighbours are read exactly."""

SPLINE_REACH = 16
"""Samples on the sphere are cubic splines; a voxel this far away weighs less than 1e-9."""


def in_slices(array: Real, *, radius: float, n_samples: int) -> Array:
    """Rotation-invariant uniform patterns, (D, H, W): the number of samples that are not darker than the centre.

    A pattern with more than two changes around the circle gets ``n_samples + 1``. Beyond the border of the slice
    intensities are 0.
    """
    image = array.astype(np.float64)
    angles = 2 * np.pi * np.arange(n_samples) / n_samples
    rows = np.round(-radius * np.sin(angles), COORDINATE_DECIMALS)
    columns = np.round(radius * np.cos(angles), COORDINATE_DECIMALS)
    brighter = np.stack([_shifted(image, r, c) - image >= 0 for r, c in zip(rows, columns, strict=True)])
    # around the circle from the first to the last sample, as the published code counts it, and back to the first
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0)
    return np.where(changes <= 2, brighter.sum(axis=0), n_samples + 1).astype(np.float64)


def _shifted(image: Array, rows: float, columns: float) -> Array:
    """Bilinear samples at an offset in each slice; 0 outside."""
    r0, c0 = math.floor(rows), math.floor(columns)
    tr, tc = rows - r0, columns - c0
    reach = max(abs(r0), abs(c0)) + 2
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)))
    height, width = image.shape[1:]

    def corner(dr: int, dc: int) -> Array:
        r, c = reach + r0 + dr, reach + c0 + dc
        return padded[:, r : r + height, c : c + width]

    top = (1 - tc) * corner(0, 0) + tc * corner(0, 1)
    bottom = (1 - tc) * corner(1, 0) + tc * corner(1, 1)
    result: Array = (1 - tr) * top + tr * bottom
    return result


def on_sphere(array: Real, *, box: Region, radius: float, n_subdivisions: int, n_levels: int) -> list[Array]:
    """Energies of the sphere's pattern by degree of spherical harmonics, and the kurtosis of its samples.

    Parameters
    ----------
    array : ndarray, shape (D, H, W)
        Intensities of the box and of ``radius + SPLINE_REACH`` voxels around it, as far as the image goes; beyond
        its border intensities are 0.
    box : Region
        Where the result is wanted.

    Returns
    -------
    list of ndarray
        ``n_levels`` energies, then the kurtosis, each of the box's shape.
    """
    directions = icosphere(n_subdivisions)
    image = array.astype(np.float64)
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)), indexing="ij"))
    harmonics = _harmonics(directions, n_levels)
    energies, kurtoses = [np.empty(box.shape) for _ in range(n_levels)], np.empty(box.shape)
    for d in range(box.shape[0]):
        centre = grid[:, d].reshape(3, -1).astype(np.float64)
        places = centre[:, :, None] + radius * directions.T[:, None, :]
        # in the dtype of the image: of integers, pyradiomics takes samples that are integers
        samples = map_coordinates(array, places, order=3, mode="constant").astype(np.float64)
        kurtoses[d] = _kurtosis(samples).reshape(box.shape[1:])
        centres = image[tuple(grid[:, d].reshape(3, -1))]
        pattern = (samples >= centres[:, None]).astype(np.float64)
        for level, basis in enumerate(harmonics):
            field = (pattern @ basis) @ basis.T
            energies[level][d] = np.sqrt((field**2).sum(axis=1)).real.reshape(box.shape[1:])
    return [*energies, kurtoses]


def _harmonics(directions: Array, n_levels: int) -> list[npt.NDArray[np.complex128]]:
    """For each degree n the harmonics of orders -n to n at the directions, (n_directions, 2 n + 1)."""
    # pyradiomics hands the two angles to the harmonics in exchanged roles; the energies of its definition need the same
    polar = np.arctan2(directions[:, 1], directions[:, 0])
    azimuth = np.arccos(np.clip(directions[:, 2], -1, 1))
    return [
        np.stack([sph_harm_y(n, m, polar, azimuth) for m in range(-n, n + 1)], axis=1).astype(np.complex128)
        for n in range(n_levels)
    ]


def _kurtosis(samples: Array) -> Array:
    """Excess kurtosis along the last axis; 0 for constant samples."""
    centred = samples - samples.mean(axis=-1, keepdims=True)
    m2, m4 = (centred**2).mean(axis=-1), (centred**4).mean(axis=-1)
    flat = m2 <= (np.finfo(float).eps * np.abs(samples).max(axis=-1)) ** 2
    result: Array = np.where(flat, 0.0, m4 / np.where(flat, 1.0, m2**2) - 3)
    return result


def icosphere(n_subdivisions: int) -> Array:
    """Corners (D, H, W) of an icosahedron whose triangles were split ``n_subdivisions`` times, on the unit sphere."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [p for a in (-1, 1) for b in (-golden, golden) for p in ((0, a, b), (a, b, 0), (b, 0, a))]
    points = np.array(corners, dtype=np.float64) / math.hypot(1, golden)
    for _ in range(n_subdivisions):
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        nearest = np.where(distance > 0, distance, np.inf).min()
        # split edges are of two lengths after the first round; the longest edge is below 1.3 of the shortest
        first, second = np.nonzero(np.triu(distance < 1.3 * nearest, k=1))
        middles = points[first] + points[second]
        points = np.concatenate([points, middles / np.linalg.norm(middles, axis=1, keepdims=True)])
    return points
