"""The surface of an ROI: area, volume and corner points of the marching-cubes mesh between voxel centres.

Each cube of 2 x 2 x 2 voxels has one of 256 patterns. The mesh cuts cube edges half-way (IBSI reference manual 3.1), so
area and volume follow from counting patterns: no mesh is built. Pattern numbers give voxel ``(z, y, x)`` of the cube
the bit ``4 z + 2 y + x``. The triangles of ambiguous patterns are those of pyradiomics 3.0.1, so that values agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from client.radiomics.compiled import kernel

Vector = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]

EDGES = "01 02 04 13 15 23 26 37 45 46 57 67"
"""The cube's edges a to l as pairs of corners."""

TRIANGLES = (
    "- bac dea bdccde bgf cgagfa bgfdea cgegfefde dfh bacdfh eahhaf bfcchecfh bgdghd cghchahda bgaghegea "
    "cgeghe cij bajjai cijdea bdjjdiide bgfcij gfjjfiifa bgfcijdea gfjjfiifeefd cijdfh bajjaidfh cijeahhaf "
    "bfjjfiifeefh bgdghdcij ghjjaijhaahd bgaghegeacij gejjeighe eki baceki dkakia bkcckibdk bgfeki cgagfaeki "
    "bgfdkakia cgigfifdidki dfheki bacdfheki hkfkifiaf bfccfiifkkfh bgdghdeki cghchahdaeki bgaghkgkakia "
    "cghchihki cejjek bkjbakkae cajjdkjad bdjjdk bgfcejjek gfjjekjfeefa bgfcajjdkjad gfjjdkjfd cejjekdfh "
    "bkjbakkaedfh cajjhkjahhaf bkjbfkkfh bgdghdcejjek gajjakkaeghaahd bgaghahkakjajca ghjjhk gjl baggallajjac "
    "gjldea blgbdllcjleclde bjfjlf cjajlalfa bjejlelfefdebea cjejlfjfefde gjfjldlhdjdf bfgcjajlalhahda "
    "gjfjlhjhejeajaf bfgcjhjlhche bjdjldlhd cjajlalhahda bjajlalhahea cjhjlhche ciggil baggallai "
    "cdggdlldiidecad bdggilgdiide bcfcifilf aifilf bcadefeifilf defeifilf cdggdfciddlhdil bfgdahhallai "
    "caggafeihhil bfgeihhil bcdcilcldlhd dahhallai bcaeihhil eihhil gjejiegelekl baggallakkaecji "
    "gjigiagadgdkgkl bkggklbdkcji bjejiebefeklelf cjiekaklalfa bjajiadkfklf cjidkfklf gjfjifiefedfhkl "
    "bfgcjidaehkl gjfjifiafhkl bfgcjihkl bjdjidiedhkl cjidaehkl bjajiahkl cjihkl ceggellek baggallakkae "
    "caggallakkad bkggklbdk bcfcekckfklf ekaklalfa bcadkfklf dkfklf ceggeffedhkl bfgdaehkl caggafhkl bfghkl "
    "bcdcedhkl daehkl bcahkl hkl "
)
"""Three edges a triangle, patterns 0 to 127, outside on the side of the normal; 255 - k is k inside out."""


def surface_and_volume(roi: npt.NDArray[np.bool_], *, spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Area in mm2 and enclosed volume in mm3 of the mesh around an ROI (D, H, W)."""
    padded = np.pad(roi, 1).view(np.uint8)
    counts, positions = _count_patterns(padded)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    owner, normals, at_origin = _triangles()
    both = (counts + counts[::-1])[:128]
    lengths = np.linalg.norm(normals * spacing.prod() / spacing, axis=1)
    area = 0.5 * float(both[owner] @ lengths)
    inward = (counts - counts[::-1])[:128].astype(np.float64)
    shift = (positions - positions[::-1])[:128].astype(np.float64)
    volume = float(inward[owner] @ at_origin + np.einsum("ij,ij->", shift[owner], normals)) / 6
    return area, abs(volume) * float(spacing.prod())


@cache
def _triangles() -> tuple[npt.NDArray[np.int64], Vector, Vector]:
    """Of each triangle the pattern (n,), twice the area vector (n, 3), six times the volume with the origin (n,)."""
    corners = np.array([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)], dtype=np.float64)
    middles = np.array([corners[[int(edge[0]), int(edge[1])]].mean(axis=0) for edge in EDGES.split()])
    owner = [k for k, edges in enumerate(TRIANGLES.split()) if edges != "-" for _ in range(len(edges) // 3)]
    letters = TRIANGLES.replace("-", "").replace(" ", "")
    triangles = middles[[ord(edge) - ord("a") for edge in letters]].reshape(-1, 3, 3)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return np.array(owner), normals, np.einsum("ij,ij->i", triangles[:, 0], normals)


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
def _count_patterns(roi: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
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
