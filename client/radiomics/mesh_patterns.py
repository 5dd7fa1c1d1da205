"""The surface inside each of the 256 patterns of 2 x 2 x 2 voxels, as triangles between middles of cube edges.

Pattern numbers give voxel ``(z, y, x)`` of the cube the bit ``4 z + 2 y + x``. There are three sets:

- `table_triangles`: the table of pyradiomics 3.0.1, so that its values are met;
- `symmetric_triangles`: that table under all 48 flips and turns of the cube, for areas that no flip changes;
- `closed_triangles`: the same with caps on its holes, for volumes that no flip or shift changes (the volume within an
  open surface depends on where the origin lies).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Doubled = tuple[int, int, int]

AREA_UNITS = 4
"""Components of area vectors are multiples of a quarter: corners of triangles are multiples of a half."""

N_TURNS = 48
"""Flips and turns of a cube."""

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


@dataclass(frozen=True, eq=False)
class Triangles:
    """The triangles of all patterns in voxels, summed up as far as area and volume allow.

    Parameters
    ----------
    pattern, area_vector, weight : ndarray, shapes (n,), (n, 3), (n,)
        Twice the area along each axis, without sign, of triangles that occur ``weight`` times in the pattern.
    volume : ndarray, shape (256,)
        Six times the volume between the pattern's triangles and the cube's origin.
    shift : ndarray, shape (256, 3)
        How that volume grows with the place of the cube.
    """

    pattern: Integers
    area_vector: Vector
    weight: Vector
    volume: Vector
    shift: Vector


@cache
def table_triangles() -> Triangles:
    return _measured(*_table())


@cache
def symmetric_triangles() -> Triangles:
    return _measured(*_all_turns(*_table()), copies=N_TURNS)


@cache
def closed_triangles() -> Triangles:
    pattern, triangles = _table()
    cap_pattern, caps = _caps(pattern, triangles)
    return _measured(
        *_all_turns(np.concatenate([pattern, cap_pattern]), np.concatenate([triangles, caps])), copies=N_TURNS
    )


def _all_turns(pattern: Integers, triangles: Vector) -> tuple[Integers, Vector]:
    """The triangles under each flip and turn of the cube, with the patterns that these make."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    inside = (pattern[:, None] >> np.arange(8)) & 1
    patterns, every = [], []
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            flip = np.array(flips)
            moved = np.where(flip, 1 - corners[:, axes], corners[:, axes]) @ np.array([4, 2, 1])
            turned = np.where(flip, 1 - triangles[:, :, axes], triangles[:, :, axes])
            mirrored = (np.linalg.det(np.eye(3)[list(axes)]) < 0) != (flip.sum() % 2 == 1)
            patterns.append((inside << moved).sum(axis=1))
            every.append(turned[:, ::-1] if mirrored else turned)
    return np.concatenate(patterns), np.concatenate(every)


def _caps(pattern: Integers, triangles: Vector) -> tuple[Integers, Vector]:
    """Pieces of cube faces that close the table's mesh where voxels touch over the diagonal of a face.

    One of the two cubes at such a face may join the voxels and the other part them. With caps, all join them.
    """
    patterns: list[int] = []
    caps: list[Vector] = []
    for number in range(1, 255):
        rim = _rim(triangles[pattern == number])
        for axis, side in product(range(3), (0, 1)):
            joined = dict(_segments(number, axis, side))
            if len(joined) < 2 or any(rim[start] == stop for start, stop in joined.items()):
                continue
            a = next(iter(joined))
            back = {stop: start for start, stop in rim.items()}
            loop = np.array([a, joined[a], back[joined[a]], joined[back[joined[a]]]]) / 2
            patterns += [number, number]
            caps += [loop[[0, 1, 2]], loop[[0, 2, 3]]]
    return np.array(patterns), np.array(caps)


def _rim(triangles: Vector) -> dict[Doubled, Doubled]:
    """Directed edges of triangles that no other triangle runs along the other way, from place to place (doubled)."""
    places = np.rint(2 * triangles).astype(int).tolist()
    edges = {(tuple(t[k]), tuple(t[(k + 1) % 3])) for t in places for k in range(3)}
    return {a: b for a, b in edges if (b, a) not in edges}


def _segments(pattern: int, axis: int, side: int) -> list[tuple[Doubled, Doubled]]:
    """Where the surface crosses one face of the cube: from edge middle to edge middle, outside to the right.

    Places are doubled, so that middles of edges are integers. Seen from outside the cube, corners go round the face.
    """
    u, v = (axis + 1) % 3, (axis + 2) % 3
    turn = [(0, 0), (1, 0), (1, 1), (0, 1)] if side else [(0, 0), (0, 1), (1, 1), (1, 0)]
    corners = []
    for a, b in turn:
        corner = [0, 0, 0]
        corner[axis], corner[u], corner[v] = side, a, b
        corners.append(corner)
    inside = [bool(pattern >> (4 * z + 2 * y + x) & 1) for z, y, x in corners]

    def middle(k: int) -> Doubled:
        (z, y, x), (z2, y2, x2) = corners[k % 4], corners[(k + 1) % 4]
        return z + z2, y + y2, x + x2

    segments = []
    for first in range(4):
        if inside[first] or not inside[first - 1]:
            continue
        last = first  # a run of outside corners, cut off by one segment
        while not inside[(last + 1) % 4]:
            last += 1
        segments.append((middle(last), middle(first + 3)))
    return segments


def _table() -> tuple[Integers, Vector]:
    """Pattern (n,) and corners (n, 3, 3) of each triangle of the table and of its inverse."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T.astype(np.float64)
    middles = np.array([corners[[int(edge[0]), int(edge[1])]].mean(axis=0) for edge in EDGES.split()])
    pattern = [k for k, edges in enumerate(TRIANGLES.split()) if edges != "-" for _ in range(len(edges) // 3)]
    letters = TRIANGLES.replace("-", "").replace(" ", "")
    triangles = middles[[ord(edge) - ord("a") for edge in letters]].reshape(-1, 3, 3)
    own = np.array(pattern)
    return np.concatenate([own, 255 - own]), np.concatenate([triangles, triangles[:, ::-1]])


def _measured(pattern: Integers, triangles: Vector, *, copies: int = 1) -> Triangles:
    """Sums over triangles (n, 3, 3), each of which counts ``1 / copies``."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    volume, shift = np.zeros(256), np.zeros((256, 3))
    np.add.at(volume, pattern, np.einsum("ij,ij->i", triangles[:, 0], normals) / copies)
    np.add.at(shift, pattern, normals / copies)
    whole = np.rint(AREA_UNITS * np.abs(normals)).astype(np.int64)
    base = int(whole.max()) + 1
    _, first, times = np.unique(
        ((pattern * base + whole[:, 0]) * base + whole[:, 1]) * base + whole[:, 2],
        return_index=True,
        return_counts=True,
    )
    return Triangles(pattern[first], whole[first] / AREA_UNITS, times / copies, volume, shift)
