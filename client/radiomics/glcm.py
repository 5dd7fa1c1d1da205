"""Features of grey level co-occurrence matrices (IBSI reference manual 3.6; Haralick 1973)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from client.radiomics.compiled import kernel

Vector = npt.NDArray[np.float64]

FEATURES = (
    "joint_max", "joint_avg", "joint_var", "joint_entr", "diff_avg", "diff_var", "diff_entr", "sum_avg", "sum_var",
    "sum_entr", "energy", "contrast", "dissimilarity", "inv_diff", "inv_diff_norm", "inv_diff_mom",
    "inv_diff_mom_norm", "inv_var", "corr", "auto_corr", "clust_tend", "clust_shade", "clust_prom", "info_corr1",
    "info_corr2",
)  # fmt: skip
"""Order of the values of `cooccurrence_features`."""

MCC_EIGENVALUES = 8
"""Eigenvalues from which pyradiomics' second largest one is found; more would only matter if all of them were equal."""

PYRADIOMICS_EPS = float(np.spacing(1.0))
"""pyradiomics adds this to denominators; for rare levels it is seen in the sixth digit."""


@kernel
def cooccurrence_features(counts: npt.NDArray[np.uint32], levels: Vector, n_grey: int) -> Vector:
    """The 25 features of the symmetric matrix ``counts + counts.T``.

    Parameters
    ----------
    counts : ndarray of uint32, shape (n, n)
        Pairs of levels in one direction, or summed over several.
    levels : ndarray of float64, shape (n,)
        Grey levels of rows and columns, ascending integers.
    n_grey : int
        Number of grey levels of the discretisation.

    Returns
    -------
    ndarray of float64, shape (25,)
        As named by ``FEATURES``; NaN where there are no pairs.
    """
    n = len(levels)
    out = np.full(25, np.nan)
    total = 0.0
    marginal = np.zeros(n)
    for i in range(n):
        for j in range(n):
            c = float(counts[i, j])
            marginal[i] += c
            marginal[j] += c
            total += 2.0 * c
    if total == 0:
        return out
    out[:] = 0.0
    marginal /= total
    mean = 0.0
    for i in range(n):
        mean += levels[i] * marginal[i]
    variance = 0.0
    entropy_marginal = 0.0
    for i in range(n):
        variance += marginal[i] * (levels[i] - mean) ** 2
        if marginal[i] > 0:
            entropy_marginal -= marginal[i] * math.log2(marginal[i])
    span = int(levels[n - 1] - levels[0])
    difference = np.zeros(span + 1)
    addition = np.zeros(2 * span + 1)
    covariance = 0.0
    for i in range(n):
        for j in range(i + 1):
            c = float(counts[i, j]) + float(counts[j, i])
            if c == 0:
                continue
            p = c / total
            weight = 1.0 if i == j else 2.0
            out[0] = max(out[0], p)
            out[3] -= weight * p * math.log2(p)
            out[10] += weight * p * p
            out[19] += weight * p * levels[i] * levels[j]
            covariance += weight * p * (levels[i] - mean) * (levels[j] - mean)
            difference[int(levels[i] - levels[j])] += weight * p
            addition[int(levels[i] + levels[j] - 2 * levels[0])] += weight * p
    out[1] = mean
    out[2] = variance
    for k in range(span + 1):
        p = difference[k]
        out[4] += k * p
        out[11] += k * k * p
        out[13] += p / (1 + k)
        out[14] += p / (1 + k / n_grey)
        out[15] += p / (1 + k * k)
        out[16] += p / (1 + (k / n_grey) ** 2)
        if k > 0:
            out[17] += p / (k * k)
        if p > 0:
            out[6] -= p * math.log2(p)
    for k in range(span + 1):
        out[5] += (k - out[4]) ** 2 * difference[k]
    out[12] = out[4]
    for k in range(2 * span + 1):
        p = addition[k]
        if p > 0:
            s = k + 2 * levels[0]
            out[7] += s * p
            out[9] -= p * math.log2(p)
            out[20] += (s - 2 * mean) ** 2 * p
            out[21] += (s - 2 * mean) ** 3 * p
            out[22] += (s - 2 * mean) ** 4 * p
    out[8] = out[20]
    out[18] = covariance / variance if variance > 0 else 1.0
    if entropy_marginal > 0:
        out[23] = (out[3] - 2 * entropy_marginal) / entropy_marginal
    out[24] = math.sqrt(max(1 - math.exp(-2 * (2 * entropy_marginal - out[3])), 0.0))
    return out


def maximal_correlation(counts: npt.NDArray[np.uint32]) -> float:
    """Pyradiomics' maximal correlation coefficient: root of the second largest eigenvalue of its matrix Q.

    ``Q = (P / (p p' + eps)) P`` is similar to the square of the symmetric ``S = P / sqrt(p p')`` but for ``eps``. So
    the largest eigenpairs of ``S`` are found, and Q itself is solved in their space: equal to second order in ``eps``.

    Parameters
    ----------
    counts : ndarray of uint32, shape (n, n)
        Pairs of levels in one direction; some are counted.
    """
    both = counts.astype(np.float64)
    both += both.T
    marginal = both.sum(axis=0)
    kept = marginal > 0
    if len(counts) < 2:
        return 1.0
    if kept.sum() < 2:
        return 0.0
    total = marginal.sum()
    p = both[np.ix_(kept, kept)] / total
    root = np.sqrt(marginal[kept] / total)
    values, vectors = _largest_eigenpairs(p / np.outer(root, root))
    outer = np.outer(root, root)
    left = (outer * p / (outer**2 + PYRADIOMICS_EPS)) @ vectors
    projected = (vectors.T @ left) * values
    second = np.sort(np.linalg.eigvals(projected).real)[-2]
    return math.sqrt(max(second, 0.0))


def _largest_eigenpairs(matrix: Vector) -> tuple[Vector, Vector]:
    """Eigenpairs of a symmetric matrix that are largest in magnitude: shapes (k,), (n, k)."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(np.abs(values))[-MCC_EIGENVALUES:]
    return values[order], vectors[:, order]
