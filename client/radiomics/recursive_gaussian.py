"""Laplacian of Gaussian by recursive filters (Deriche 1992; coefficients of Farneback and Westin 2006).

The recursion, its borders and its roundings are those of ITK's ``LaplacianRecursiveGaussianImageFilter``, which
pyradiomics uses, so results are equal to the last bit. But only the lines that the wanted box needs are filtered, many
lines at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel

Floats = npt.NDArray[np.floating]
Coefficients = npt.NDArray[np.float64]

REACH_SIGMAS = 16.0
"""Beyond this many sigma a voxel weighs less than 3e-10 of the centre: below single precision."""

MIN_VOXELS = 4
"""The recursion needs this many voxels along each axis."""

_A0, _B0, _C0, _D0 = 1.3530, 1.8151, -0.3531, 0.0902
_A2, _B2, _C2, _D2 = -1.3563, 5.2318, 0.3446, -2.2355
_W1, _L1, _W2, _L2 = 0.6681, -1.3932, 2.0787, -1.3732

LINES = 16
"""Lines that are filtered together: enough for the vector units, few enough for the nearest cache."""


def laplacian_of_gaussian(
    image: Floats,
    *,
    sigma_mm: float,
    spacing_mm: Sequence[float],
    start: Sequence[int],
    stop: Sequence[int],
) -> Floats:
    """The scale-normalised Laplacian of Gaussian in a box of the image.

    Parameters
    ----------
    image : ndarray of float32 or float64, shape (D, H, W)
        At least ``MIN_VOXELS`` along each axis; beyond the border its voxels are repeated. Between the passes values
        are float32, as in ITK.
    spacing_mm : sequence of 3 floats
        Along D, H, W.
    start, stop : sequence of 3 ints
        The box.

    Returns
    -------
    ndarray of float32, shape stop - start
    """
    total = np.zeros([b - a for a, b in zip(start, stop, strict=True)], dtype=np.float32)
    # derivative axis first, then the others from W to D: the order decides how sums round
    for axis in (2, 1, 0):
        part = image
        for direction in (axis, *(other for other in (2, 1, 0) if other != axis)):
            order = 2 if direction == axis else 0
            part = _along(part, direction, order, sigma_mm, spacing_mm[direction], start[direction], stop[direction])
        total = (total + part * (1.0 / np.float64(spacing_mm[axis]) ** 2)).astype(np.float32)
    return total


def _along(image: Floats, axis: int, order: int, sigma_mm: float, spacing_mm: float, start: int, stop: int) -> Floats:
    """Filter all lines along ``axis`` and keep ``start`` to ``stop`` of each."""
    shape = list(image.shape)
    shape[axis] = stop - start
    out = np.empty(shape, dtype=np.float32)
    turn = {0: (2, 0, 1), 1: (0, 1, 2), 2: (0, 2, 1)}[axis]
    if axis == 0:
        flat, flat_out = image.reshape(1, image.shape[0], -1), out.reshape(1, shape[0], -1)
        if np.shares_memory(flat, image):
            _filter_lines(flat, flat_out, coefficients(sigma_mm, spacing_mm, order), start)
            return out
    _filter_lines(image.transpose(turn), out.transpose(turn), coefficients(sigma_mm, spacing_mm, order), start)
    return out


def coefficients(sigma_mm: float, spacing_mm: float, order: int) -> Coefficients:
    """N0..N3, D1..D4, M1..M4, the sums for the borders BN1..BN4, BM1..BM4 of the recursion, shape (20,)."""
    sigma = sigma_mm / spacing_mm
    d, sd, dd, ed = _denominator(sigma)
    n, sn, dn, en = _numerator(sigma, _A0, _B0, _C0, _D0)
    if order == 0:
        scale = 1.0 / (2 * sn / sd - n[0])
    else:
        n2, sn2, dn2, en2 = _numerator(sigma, _A2, _B2, _C2, _D2)
        beta = -(2 * sn2 - sd * n2[0]) / (2 * sn - sd * n[0])
        n = [second + beta * zeroth for second, zeroth in zip(n2, n, strict=True)]
        sn, dn, en = sn2 + beta * sn, dn2 + beta * dn, en2 + beta * en
        alpha = en * sd * sd - ed * sn * sd - 2 * dn * dd * sd + 2 * dd * dd * sn
        scale = sigma_mm**2 / (alpha / (sd * sd * sd))
    n = [value * scale for value in n]
    m = [n[1] - d[0] * n[0], n[2] - d[1] * n[0], n[3] - d[2] * n[0], -d[3] * n[0]]
    total_n, total_m = n[0] + n[1] + n[2] + n[3], m[0] + m[1] + m[2] + m[3]
    border_n = [value * total_n / sd for value in d]
    border_m = [value * total_m / sd for value in d]
    return np.array([*n, *d, *m, *border_n, *border_m])


def _numerator(sigma: float, a1: float, b1: float, a2: float, b2: float) -> tuple[list[float], float, float, float]:
    sin1, cos1, exp1 = math.sin(_W1 / sigma), math.cos(_W1 / sigma), math.exp(_L1 / sigma)
    sin2, cos2, exp2 = math.sin(_W2 / sigma), math.cos(_W2 / sigma), math.exp(_L2 / sigma)
    n0 = a1 + a2
    n1 = exp2 * (b2 * sin2 - (a2 + 2 * a1) * cos2)
    n1 += exp1 * (b1 * sin1 - (a1 + 2 * a2) * cos1)
    n2 = (a1 + a2) * cos2 * cos1
    n2 -= b1 * cos2 * sin1 + b2 * cos1 * sin2
    n2 *= 2 * exp1 * exp2
    n2 += a2 * exp1 * exp1 + a1 * exp2 * exp2
    n3 = exp2 * exp1 * exp1 * (b2 * sin2 - a2 * cos2)
    n3 += exp1 * exp2 * exp2 * (b1 * sin1 - a1 * cos1)
    return [n0, n1, n2, n3], n0 + n1 + n2 + n3, n1 + 2 * n2 + 3 * n3, n1 + 4 * n2 + 9 * n3


def _denominator(sigma: float) -> tuple[list[float], float, float, float]:
    cos1, exp1 = math.cos(_W1 / sigma), math.exp(_L1 / sigma)
    cos2, exp2 = math.cos(_W2 / sigma), math.exp(_L2 / sigma)
    d4 = exp1 * exp1 * exp2 * exp2
    d3 = -2 * cos1 * exp1 * exp2 * exp2
    d3 += -2 * cos2 * exp2 * exp1 * exp1
    d2 = 4 * cos2 * cos1 * exp1 * exp2
    d2 += exp1 * exp1 + exp2 * exp2
    d1 = -2 * (exp2 * cos2 + exp1 * cos1)
    return [d1, d2, d3, d4], 1.0 + d1 + d2 + d3 + d4, d1 + 2 * d2 + 3 * d3 + 4 * d4, d1 + 4 * d2 + 9 * d3 + 16 * d4


@kernel
def _filter_lines(image: Floats, out: Floats, c: Coefficients, start: int) -> None:
    """Filter along the middle axis; ``out`` holds the steps from ``start``."""
    n_outer, n, n_inner = image.shape
    m = out.shape[1]
    data = np.empty((n, LINES))
    forward = np.empty((n, LINES))
    backward = np.empty((n, LINES))
    for a in range(n_outer):
        for first in range(0, n_inner, LINES):
            width = min(LINES, n_inner - first)
            for i in range(n):
                for b in range(width):
                    data[i, b] = image[a, i, first + b]
            _causal(data, forward, c, n, width)
            _anticausal(data, backward, c, n, width)
            for i in range(m):
                for b in range(width):
                    out[a, i, first + b] = forward[start + i, b] + backward[start + i, b]


@kernel
def _causal(data: Floats, out: Floats, c: Coefficients, n: int, width: int) -> None:
    for i in range(4):
        for b in range(width):
            edge = data[0, b]
            x1 = data[i - 1, b] if i > 0 else edge
            x2 = data[i - 2, b] if i > 1 else edge
            x3 = data[i - 3, b] if i > 2 else edge
            value = data[i, b] * c[0] + x1 * c[1] + x2 * c[2] + x3 * c[3]
            y1 = out[i - 1, b] * c[4] if i > 0 else edge * c[12]
            y2 = out[i - 2, b] * c[5] if i > 1 else edge * c[13]
            y3 = out[i - 3, b] * c[6] if i > 2 else edge * c[14]
            out[i, b] = value - (y1 + y2 + y3 + edge * c[15])
    n0, n1, n2, n3 = c[0], c[1], c[2], c[3]
    d1, d2, d3, d4 = c[4], c[5], c[6], c[7]
    for i in range(4, n):
        for b in range(width):
            value = data[i, b] * n0 + data[i - 1, b] * n1 + data[i - 2, b] * n2 + data[i - 3, b] * n3
            out[i, b] = value - (out[i - 1, b] * d1 + out[i - 2, b] * d2 + out[i - 3, b] * d3 + out[i - 4, b] * d4)


@kernel
def _anticausal(data: Floats, out: Floats, c: Coefficients, n: int, width: int) -> None:
    for k in range(4):
        i = n - 1 - k
        for b in range(width):
            edge = data[n - 1, b]
            x1 = data[i + 1, b] if k > 0 else edge
            x2 = data[i + 2, b] if k > 1 else edge
            x3 = data[i + 3, b] if k > 2 else edge
            value = x1 * c[8] + x2 * c[9] + x3 * c[10] + edge * c[11]
            y1 = out[i + 1, b] * c[4] if k > 0 else edge * c[16]
            y2 = out[i + 2, b] * c[5] if k > 1 else edge * c[17]
            y3 = out[i + 3, b] * c[6] if k > 2 else edge * c[18]
            out[i, b] = value - (y1 + y2 + y3 + edge * c[19])
    m1, m2, m3, m4 = c[8], c[9], c[10], c[11]
    d1, d2, d3, d4 = c[4], c[5], c[6], c[7]
    for i in range(n - 5, -1, -1):
        for b in range(width):
            value = data[i + 1, b] * m1 + data[i + 2, b] * m2 + data[i + 3, b] * m3 + data[i + 4, b] * m4
            out[i, b] = value - (out[i + 1, b] * d1 + out[i + 2, b] * d2 + out[i + 3, b] * d3 + out[i + 4, b] * d4)
