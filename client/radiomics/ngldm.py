"""Features of neighbouring grey level dependence matrices (IBSI reference manual 3.11; Sun and Wee 1983).

A voxel depends on its neighbours at Chebyshev distance 1 with the same grey level (coarseness 0), and on itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.radiomics.emphasis import emphases

FEATURES = (
    "lde", "hde", "lgce", "hgce", "ldlge", "ldhge", "hdlge", "hdhge", "glnu", "glnu_norm", "dcnu", "dcnu_norm",
    "dc_perc", "gl_var", "dc_var", "dc_entr", "dc_energy",
)  # fmt: skip


def dependence_features(dependence: npt.NDArray[np.int64], levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 17 features of a matrix (n, m) whose column ``k`` counts voxels with ``k`` equal neighbours."""
    extents = np.arange(1, dependence.shape[1] + 1, dtype=np.float64)
    values: npt.NDArray[np.float64] = emphases(dependence, levels, extents, float(dependence.sum()))
    return values
