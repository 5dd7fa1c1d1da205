"""Bounding what one release may say: a vector of parameters scaled down to a largest L2 norm.

Clipping alone is no differential privacy; it is the sensitivity that noise is measured against.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters, Vector
from common.errors import PrivacyError


def clip_vector(vector: npt.NDArray[np.floating], *, clipping_norm: float) -> Vector:
    """``vector`` (n,) in float64, scaled so that its L2 norm is at most ``clipping_norm``; unchanged where it is.

    Raises
    ------
    PrivacyError
        Where a value is not finite: it has no norm, and scaled it would still leave.
    """
    _require_norm(clipping_norm)
    values = vector.astype(np.float64)
    if finite_norm(values) <= clipping_norm:
        return values
    direction = values / np.abs(values).max()
    clipped: Vector = direction * (clipping_norm / np.linalg.norm(direction))
    while finite_norm(clipped) > clipping_norm:  # by rounding, a bit of the last digit
        clipped = clipped * (1 - np.finfo(np.float64).eps)
    return clipped


def clip_parameters(parameters: Parameters, *, clipping_norm: float) -> Parameters:
    """All arrays together, 0-d ones too, scaled so that their joint L2 norm is at most ``clipping_norm``.

    The bound holds for the values as they leave, in the arrays' own dtypes. No arrays, and zeros, come back as they
    are.

    Raises
    ------
    PrivacyError
        Where a value is not finite.
    """
    vector = parameters.flatten()
    clipped = parameters.unflatten(clip_vector(vector, clipping_norm=clipping_norm))
    bound = clipping_norm
    coarsest = max((float(np.finfo(array.dtype).eps) for array in parameters.values()), default=0.0)
    while finite_norm(clipped.flatten()) > clipping_norm:  # rounding to the dtype went up
        bound *= 1 - coarsest
        clipped = parameters.unflatten(clip_vector(vector, clipping_norm=bound))
    return clipped


def finite_norm(vector: npt.NDArray[np.floating]) -> float:
    """L2 norm of finite values, without overflow on the way.

    Raises
    ------
    PrivacyError
        Where a value is not finite.
    """
    if not np.isfinite(vector).all():
        n_faults = int((~np.isfinite(vector)).sum())
        raise PrivacyError(f"{n_faults} of {vector.size} values are not finite: they have no norm to clip")
    largest = float(np.abs(vector).max(initial=0.0))
    return largest * float(np.linalg.norm(vector / largest)) if largest > 0 else 0.0


def _require_norm(clipping_norm: float) -> None:
    if not 0 < clipping_norm < math.inf:
        raise PrivacyError(f"a clipping norm is positive and finite, got {clipping_norm}")
