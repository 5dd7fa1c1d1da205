"""The sweeps of `common.statistics.coordinate_descent`, compiled: who solves no penalised model does not load this."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit
def sweep(gram, linear, l1, l2, w, tolerance, max_sweeps):  # type: ignore[no-untyped-def]  # compiled: types at run time
    """Sweeps over all coefficients, then over the non-zero ones until they settle, then over all again."""
    p = w.size
    gradient = linear - gram @ w
    scale = 0.0
    for j in range(p):
        if gram[j, j] + l2[j] > 0.0:
            scale = max(scale, abs(linear[j]) / np.sqrt(gram[j, j] + l2[j]))
    everything = True
    for _ in range(max_sweeps):
        moved = 0.0
        for j in range(p):
            curvature = gram[j, j] + l2[j]
            if curvature <= 0.0 or (not everything and w[j] == 0.0):
                continue
            pull = gradient[j] + gram[j, j] * w[j]
            size = abs(pull) - l1[j]
            new = 0.0
            if size > 0.0:
                new = size / curvature if pull > 0.0 else -size / curvature
            step = new - w[j]
            if step != 0.0:
                w[j] = new
                for i in range(p):
                    gradient[i] -= step * gram[j, i]
                moved = max(moved, abs(step) * np.sqrt(gram[j, j] + l2[j]))
        if moved <= tolerance * scale:
            if everything:
                return w, True
            everything = True
        else:
            everything = False
    return w, False
