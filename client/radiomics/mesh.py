"""The surface of an ROI: area, volume and outer points of the marching-cubes mesh between voxel centres.

Each cube of 2 x 2 x 2 voxels has one of 256 patterns (see ``mesh_patterns``). The mesh cuts cube edges half-way (IBSI
reference manual 3.1), so area and volume follow from counting patterns: no mesh is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from client.radiomics.compiled import kernel
from client.radiomics.mesh_patterns import Triangles, closed_triangles, symmetric_triangles, table_triangles

Vector = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def surface_and_volume(
    roi: npt.NDArray[np.bool_], *, spacing_mm: Sequence[float], table: Literal["symmetric", "pyradiomics"]
) -> tuple[float, float]:
    """Area in mm2 and enclosed volume in mm3 of the mesh around an ROI (D, H, W).

    With the table of pyradiomics, area and volume of a ragged ROI change with flips and shifts; the symmetric one takes
    means over all flips, with holes of the mesh closed. Of smooth ROIs both agree to a permille.
    """
    counts, positions = _count_patterns(np.pad(roi, 1).view(np.uint8))
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if table == "pyradiomics":
        triangles = table_triangles()
        return _area(triangles, counts, spacing), _volume(triangles, counts, positions, spacing)
    return _area(symmetric_triangles(), counts, spacing), _volume(closed_triangles(), counts, positions, spacing)


def _area(triangles: Triangles, counts: Integers, spacing: Vector) -> float:
    lengths = np.linalg.norm(triangles.area_vector * (spacing.prod() / spacing), axis=1)
    return 0.5 * float((counts[triangles.pattern] * triangles.weight) @ lengths)


def _volume(triangles: Triangles, counts: Integers, positions: Integers, spacing: Vector) -> float:
    """Sum of tetrahedra with the origin; a cube elsewhere adds its place times its area vectors."""
    six_volumes = float(counts @ triangles.volume + np.einsum("ij,ij->", positions.astype(np.float64), triangles.shift))
    return abs(six_volumes) / 6 * float(spacing.prod())


def outer_points(roi: npt.NDArray[np.bool_]) -> Points:
    """Mesh points that may be corners of the convex hull, (n_points, 3) in voxels.

    Of each line of voxels along an axis only the first and the last crossing of the surface can be a corner; of those
    in one plane, only the corners of their plane hull.
    """
    candidates = np.concatenate([_line_ends(roi, axis) for axis in range(3)])
    planes = candidates[np.lexsort((candidates[:, 2], candidates[:, 1], candidates[:, 0]))]
    return _plane_hulls(planes)


def plane_diameters(roi: npt.NDArray[np.bool_], *, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Largest distance in mm of two mesh points with equal D, equal H, equal W."""
    points = np.concatenate([_line_ends(roi, axis) for axis in range(3)])
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    found = []
    for axis in range(3):
        order = np.array([axis, *(other for other in range(3) if other != axis)])
        turned = points[:, order]
        turned = turned[np.lexsort((turned[:, 2], turned[:, 1], turned[:, 0]))]
        found.append(_widest_in_plane(_plane_hulls(turned), spacing[order]))
    return found[0], found[1], found[2]


def hull(points: Points) -> ConvexHull:
    """The convex hull of points in mm; its ``area`` and ``volume`` are in mm2 and mm3."""
    return ConvexHull(points)


def largest_distance(corners: Points) -> float:
    """Largest distance of two points (n_points, 3)."""
    return float(pdist(corners).max())


def _line_ends(roi: npt.NDArray[np.bool_], axis: int) -> Points:
    """First and last crossing of each line along ``axis``, (2 n_lines, 3), half-way between voxels."""
    n = roi.shape[axis]
    lines = roi.any(axis=axis)
    first = roi.argmax(axis=axis)[lines] - 0.5
    last = n - 0.5 - np.flip(roi, axis=axis).argmax(axis=axis)[lines]
    across = np.argwhere(lines).astype(np.float64)
    return np.concatenate([np.insert(across, axis, ends, axis=1) for ends in (first, last)])


@kernel
def _count_patterns(roi: npt.NDArray[np.uint8]) -> tuple[Integers, Integers]:
    """How often each pattern occurs (256,), and the sums of its positions (256, 3)."""
    counts = np.zeros(256, np.int64)
    positions = np.zeros((256, 3), np.int64)
    depth, height, width = roi.shape
    for z in range(depth - 1):
        for y in range(height - 1):
            left = roi[z, y, 0] + 2 * roi[z, y + 1, 0] + 4 * roi[z + 1, y, 0] + 8 * roi[z + 1, y + 1, 0]
            for x in range(width - 1):
                right = (
                    roi[z, y, x + 1]
                    + 2 * roi[z, y + 1, x + 1]
                    + 4 * roi[z + 1, y, x + 1]
                    + 8 * roi[z + 1, y + 1, x + 1]
                )
                if left + right != 0 and left + right != 30:
                    pattern = 0
                    for bit in range(4):
                        pattern |= ((left >> bit) & 1) << (2 * bit)
                        pattern |= ((right >> bit) & 1) << (2 * bit + 1)
                    counts[pattern] += 1
                    positions[pattern, 0] += z
                    positions[pattern, 1] += y
                    positions[pattern, 2] += x
                left = right
    return counts, positions


@kernel
def _plane_hulls(points: Points) -> Points:
    """Corners of the plane hull of each group with equal first coordinate; points are sorted (Andrew 1979)."""
    n = len(points)
    out = np.empty((2 * n, 3))
    n_out = 0
    start = 0
    while start < n:
        stop = start
        while stop < n and points[stop, 0] == points[start, 0]:
            stop += 1
        base = n_out
        for k in range(start, stop):
            while n_out - base >= 2 and _turn(out[n_out - 2], out[n_out - 1], points[k]) <= 0:
                n_out -= 1
            out[n_out] = points[k]
            n_out += 1
        upper = n_out
        for k in range(stop - 2, start - 1, -1):
            while n_out - upper >= 1 and _turn(out[n_out - 2], out[n_out - 1], points[k]) <= 0:
                n_out -= 1
            out[n_out] = points[k]
            n_out += 1
        if n_out - base > 1:
            n_out -= 1
        start = stop
    return out[:n_out].copy()


@kernel
def _turn(a: Vector, b: Vector, c: Vector) -> float:
    turn: float = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
    return turn


@kernel
def _widest_in_plane(points: Points, spacing: Vector) -> float:
    best = 0.0
    start = 0
    n = len(points)
    while start < n:
        stop = start
        while stop < n and points[stop, 0] == points[start, 0]:
            stop += 1
        for i in range(start, stop):
            for j in range(i + 1, stop):
                h = (points[i, 1] - points[j, 1]) * spacing[1]
                w = (points[i, 2] - points[j, 2]) * spacing[2]
                best = max(best, h * h + w * w)
        start = stop
    widest: float = math.sqrt(best)
    return widest
