"""Features of neighbourhood grey tone difference matrices (IBSI reference manual 3.10; Amadasun and King 1989)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEATURES = ("coarseness", "contrast", "busyness", "complexity", "strength")

COARSEST = 1e6
"""Coarseness of an ROI without any grey tone difference, as IBSI 3.10.1 and pyradiomics set it."""


def tone_features(
    tone_difference: npt.NDArray[np.float64], n_voxels: npt.NDArray[np.int64], levels: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The 5 features.

    Parameters
    ----------
    tone_difference, n_voxels : ndarray, shape (n,)
        By level: summed differences, and voxels with at least one neighbour.
    levels : ndarray of float64, shape (n,)

    Returns
    -------
    ndarray of float64, shape (5,)
        NaN where no voxel has a neighbour.
    """
    kept = n_voxels > 0
    total = float(n_voxels.sum())
    if total == 0:
        return np.full(5, np.nan)
    p, s, i = n_voxels[kept] / total, tone_difference[kept], levels[kept]
    n = len(p)
    weighted, summed = float(p @ s), float(s.sum())
    coarseness = 1 / weighted if weighted > 0 else COARSEST
    if n == 1:
        return np.array([coarseness, 0.0, 0.0, 0.0, 0.0])
    apart = np.abs(i[:, None] - i[None, :])
    contrast = float(p @ apart**2 @ p) / (n * (n - 1)) * summed / total
    spread = float(np.abs((i * p)[:, None] - (i * p)[None, :]).sum())
    busyness = weighted / spread if spread > 0 else 0.0
    together = p[:, None] + p[None, :]
    complexity = float((apart * ((p * s)[:, None] + (p * s)[None, :]) / together).sum()) / total
    strength = float((together * apart**2).sum()) / summed if summed > 0 else 0.0
    return np.array([coarseness, contrast, busyness, complexity, strength])
