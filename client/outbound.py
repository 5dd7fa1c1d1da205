"""What this hospital takes off every model update before it leaves: fewer values, smaller ones, coarser ones.

These filters make it harder to read cases out of an update; none of them, clipping included, is differential privacy.
They work on what training ended in, before noise of the study and before masks. The order is that of `filtered`;
rounding goes towards zero, so that it never lengthens an update that was clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters, Vector
from common.config.gate import OutboundConfig
from common.config.study import StudyConfig
from common.errors import GateError
from common.privacy.clipping import clip_parameters

Array = npt.NDArray[np.floating]


MEANS = "trunk.centre.mean"
"""The array that the first round of a centred model sends (`common.models.networks.centre`), and no other."""


def centring_faults(study: StudyConfig, config: OutboundConfig) -> Iterator[str]:
    """Which models of a study these filters would spoil: the first round of a centred model sends the means of its
    features, which a clipped, thinned out or dropped update would move far away from all cases, for good.

    Rounding moves a mean by less than it moves any weight, so it may stay.
    """
    for entry in study.models:
        if entry.solved is not None or not entry.trained[0].centred:
            continue
        drops = any(
            fnmatchcase(entry.name, name) and fnmatchcase(MEANS, array)
            for name, _, array in (text.partition("/") for text in config.drop)
        )
        given = {"drop": drops, "keep_share": config.keep_share is not None, "clip_norm": config.clip_norm is not None}
        filters = ", ".join(f"gate.updates.{name}" for name, is_there in given.items() if is_there)
        if filters:
            yield f"model {entry.name} is centred: {filters} would spoil the means of its first round"


def filtered(delta: Parameters, config: OutboundConfig, *, model: str) -> Parameters:
    """The update as it may leave: of the same layout, so that it is averaged like any other.

    Raises
    ------
    GateError
        Where an entry of ``drop`` for this model names no array of it.
    PrivacyError
        Where a value is not finite.
    """
    if config.drop:
        delta = without(delta, config.drop, model=model)
    if config.keep_share is not None:
        delta = delta.unflatten(largest(delta.flatten(), share=config.keep_share))
    if config.clip_norm is not None:
        delta = clip_parameters(delta, clipping_norm=config.clip_norm)
    if config.decimals is not None:
        delta = Parameters({name: to_decimals(array, decimals=config.decimals) for name, array in delta.items()})
    if config.bfloat16:
        delta = Parameters({name: to_bfloat16(array) for name, array in delta.items()})
    return delta


def without(delta: Parameters, drop: Sequence[str], *, model: str) -> Parameters:
    """Zeros in place of the arrays that stay here."""
    patterns = [array for entry in drop for name, _, array in [entry.partition("/")] if fnmatchcase(model, name)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in delta):
            raise GateError(
                f"gate.updates.drop: {pattern} names no array of model {model}, which has {', '.join(delta)}"
            )
    stays = {name for name in delta if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return Parameters({name: np.zeros_like(array) if name in stays else array for name, array in delta.items()})


def largest(values: Vector, *, share: float) -> Vector:
    """The share of the values that is largest in size, at least one; zeros in place of the others."""
    kept = np.zeros_like(values)
    n_kept = min(max(1, math.ceil(share * values.size)), values.size)
    if not n_kept:
        return kept
    places = np.argpartition(np.abs(values), values.size - n_kept)[values.size - n_kept :]
    kept[places] = values[places]
    return kept


def to_decimals(array: Array, *, decimals: int) -> Array:
    """Values cut after so many decimals; the nearest that the array's dtype has."""
    step = 10.0**decimals
    cut: Array = np.asarray(np.trunc(array.astype(np.float64) * step) / step, dtype=array.dtype)  # 0-d stays an array
    return cut


def to_bfloat16(array: Array) -> Array:
    """Values cut to 8 significant bits, the range of single precision kept (Kalamkar et al. 2019, arXiv:1905.12322)."""
    bits = np.asarray(array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000))
    cut: Array = np.asarray(bits.view(np.float32), dtype=array.dtype)
    return cut
