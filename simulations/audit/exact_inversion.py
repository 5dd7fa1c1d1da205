"""Inversion without a search: a dense first layer with a bias hands out the row it was given.

At one case the gradient of row ``j`` of the first layer's weight is ``d_j x`` and that of its bias ``d_j``, so the
quotient is the case's whole row of features, exactly (Phong et al. 2018, "Privacy-preserving deep learning via
additively homomorphic encryption", section III). Over a batch the quotient is a weighted mean of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def first_layer(names: Mapping[str, object], n_features: int) -> str | None:
    """The layer of a model that reads the table; None for one that reads images alone."""
    for layer in ("body.0", "table_head", "head"):
        weight = names.get(f"{layer}.weight")
        if weight is not None and getattr(weight, "shape", (0, 0))[-1] == n_features:
            return layer
    return None


def row_from_gradient(weight: npt.NDArray[np.floating], bias: npt.NDArray[np.floating]) -> Vector:
    """The row of features (F,) from the first layer's gradients ``weight`` (H, F) and ``bias`` (H,).
    Where the bias has no gradient (over a batch that cancels), the direction alone.
    """
    unit = int(np.argmax(np.abs(bias)))
    row = np.asarray(weight[unit], dtype=np.float64)
    return row / float(bias[unit]) if bias[unit] != 0 else row
