"""Morphology of an ROI (IBSI reference manual 3.1) and pyradiomics' shape features.

The *morphological* ROI gives the form, the *intensity* ROI (resegmented) the intensities. Lengths are in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre

from client.radiomics import mesh

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]

FEATURES = (
    "volume", "vol_approx", "area_mesh", "av", "comp_1", "comp_2", "sph_dispr", "sphericity", "asphericity", "com",
    "diam", "pca_maj_axis", "pca_min_axis", "pca_least_axis", "pca_elongation", "pca_flatness", "vol_dens_aabb",
    "area_dens_aabb", "vol_dens_aee", "area_dens_aee", "vol_dens_conv_hull", "area_dens_conv_hull", "integ_int",
)  # fmt: skip
PYRADIOMICS_FEATURES = (
    "Elongation", "Flatness", "LeastAxisLength", "MajorAxisLength", "Maximum2DDiameterColumn",
    "Maximum2DDiameterRow", "Maximum2DDiameterSlice", "Maximum3DDiameter", "MeshVolume", "MinorAxisLength",
    "Sphericity", "SurfaceArea", "SurfaceVolumeRatio", "VoxelVolume",
)  # fmt: skip

LEGENDRE_TERMS = 20
"""Terms of the series for the area of an ellipsoid, as IBSI 3.1.21 asks for."""


def morphological_features(
    roi: Mask, *, spacing_mm: Sequence[float], intensity_roi: Mask, intensities: Vector
) -> dict[str, float]:
    """The standardised morphological features but Moran's I and Geary's C, without prefix.

    Parameters
    ----------
    roi, intensity_roi : ndarray of bool, shape (D, H, W)
        On the same grid.
    spacing_mm : sequence of 3 floats
        Along D, H, W.
    intensities : ndarray of float64, shape (n_voxels,)
        Of the intensity ROI, in C order.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    area, volume = mesh.surface_and_volume(roi, spacing_mm=spacing_mm, table="symmetric")
    hull = mesh.hull(mesh.outer_points(roi) * spacing)
    corners = hull.points[hull.vertices]
    places = np.argwhere(roi) * spacing
    axes = _axis_lengths(places, ddof=1)
    extent = np.ptp(corners, axis=0)
    centre = _centre_of_mass(intensity_roi, intensities) * spacing
    sphericity = (36 * math.pi * volume**2) ** (1 / 3) / area
    ellipsoid = math.pi / 6 * float(axes.prod())
    return {
        "volume": volume,
        "vol_approx": float(len(places) * spacing.prod()),
        "area_mesh": area,
        "av": area / volume,
        "comp_1": volume / (math.sqrt(math.pi) * area**1.5),
        "comp_2": 36 * math.pi * volume**2 / area**3,
        "sph_dispr": 1 / sphericity,
        "sphericity": sphericity,
        "asphericity": (area**3 / (36 * math.pi * volume**2)) ** (1 / 3) - 1,
        "com": float(np.linalg.norm(places.mean(axis=0) - centre)),
        "diam": mesh.largest_distance(corners),
        "pca_maj_axis": float(axes[0]),
        "pca_min_axis": float(axes[1]),
        "pca_least_axis": float(axes[2]),
        "pca_elongation": float(axes[1] / axes[0]) if axes[0] > 0 else math.nan,
        "pca_flatness": float(axes[2] / axes[0]) if axes[0] > 0 else math.nan,
        "vol_dens_aabb": volume / float(extent.prod()),
        "area_dens_aabb": area / (2 * float(extent[0] * extent[1] + extent[1] * extent[2] + extent[0] * extent[2])),
        "vol_dens_aee": volume / ellipsoid if ellipsoid > 0 else math.nan,
        "area_dens_aee": area / _ellipsoid_area(axes / 2) if ellipsoid > 0 else math.nan,
        "vol_dens_conv_hull": volume / float(hull.volume),
        "area_dens_conv_hull": area / float(hull.area),
        "integ_int": volume * float(intensities.mean()),
    }


def pyradiomics_shape(roi: Mask, *, spacing_mm: Sequence[float]) -> dict[str, float]:
    """The 14 shape features of pyradiomics 3.0.1 (axis lengths from the population covariance)."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    area, volume = mesh.surface_and_volume(roi, spacing_mm=spacing_mm, table="pyradiomics")
    hull = mesh.hull(mesh.outer_points(roi) * spacing)
    places = np.argwhere(roi) * spacing
    axes = _axis_lengths(places, ddof=0)
    in_slice, in_column, in_row = mesh.plane_diameters(roi, spacing_mm=spacing_mm)
    values = {
        "Elongation": float(axes[1] / axes[0]) if axes[0] > 0 else math.nan,
        "Flatness": float(axes[2] / axes[0]) if axes[0] > 0 else math.nan,
        "LeastAxisLength": float(axes[2]),
        "MajorAxisLength": float(axes[0]),
        "Maximum2DDiameterColumn": in_column,
        "Maximum2DDiameterRow": in_row,
        "Maximum2DDiameterSlice": in_slice,
        "Maximum3DDiameter": mesh.largest_distance(hull.points[hull.vertices]),
        "MeshVolume": volume,
        "MinorAxisLength": float(axes[1]),
        "Sphericity": (36 * math.pi * volume**2) ** (1 / 3) / area,
        "SurfaceArea": area,
        "SurfaceVolumeRatio": area / volume,
        "VoxelVolume": float(len(places) * spacing.prod()),
    }
    return {name: values[name] for name in PYRADIOMICS_FEATURES}


def _axis_lengths(places: Vector, *, ddof: int) -> Vector:
    """Four times the root of the principal variances of points in mm, major axis first, (3,)."""
    if len(places) <= ddof:
        return np.zeros(3)
    centred = places - places.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred / (len(places) - ddof))[::-1]
    # the variance of a flat ROI across itself is zero but for rounding
    lengths: Vector = 4 * np.sqrt(np.where(variances > 1e-12 * variances[0], variances, 0.0))
    return lengths


def _centre_of_mass(roi: Mask, intensities: Vector) -> Vector:
    """Intensity-weighted mean index, (3,); intensities of both signs are weights as they are (IBSI 3.1.10)."""
    places = np.argwhere(roi).astype(np.float64)
    total = intensities.sum()
    if total == 0:
        return np.full(3, np.nan)
    centre: Vector = intensities @ places / total
    return centre


def _ellipsoid_area(semi_axes: Vector) -> float:
    """Area of an ellipsoid with semi-axes a >= b >= c > 0: the Legendre series of IBSI 3.1.21."""
    a, b, c = (float(axis) for axis in semi_axes)
    alpha, beta = math.sqrt(1 - b**2 / a**2), math.sqrt(1 - c**2 / a**2)
    if alpha * beta == 0:
        return 4 * math.pi * a * b if beta == 0 else _spheroid_area(a, c)
    x = (alpha**2 + beta**2) / (2 * alpha * beta)
    terms = (
        (alpha * beta) ** order / (1 - 4 * order**2) * legendre.legval(x, [0.0] * order + [1.0])
        for order in range(LEGENDRE_TERMS + 1)
    )
    return 4 * math.pi * a * b * float(sum(terms))


def _spheroid_area(a: float, c: float) -> float:
    """Area of an oblate spheroid with semi-axes a = b > c."""
    e = math.sqrt(1 - c**2 / a**2)
    return 2 * math.pi * a**2 * (1 + (1 - e**2) / e * math.atanh(e))
