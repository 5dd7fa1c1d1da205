"""Intensity-volume histogram features (IBSI reference manual 3.5; El Naqa 2009)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEATURES = ("v10", "v90", "i10", "i90", "diff_v10_v90", "diff_i10_i90")

Vector = npt.NDArray[np.float64]


def volume_histogram_features(values: Vector, *, lowest: float, highest: float, step: float) -> dict[str, float]:
    """The 6 standardised features, without prefix.

    Parameters
    ----------
    values : ndarray of float64, shape (n_voxels,)
        Intensities, or centres or numbers of their bins.
    lowest, highest : float
        The range that intensity fractions are taken of.
    step : float
        Distance of neighbouring intensities of the histogram; 0 where intensities are continuous, then the observed
        ones are taken.
    """
    if highest == lowest:
        return dict.fromkeys(FEATURES, float("nan"))
    ordered = np.sort(values)
    v10, v90 = (_volume_above(ordered, lowest + share * (highest - lowest)) for share in (0.1, 0.9))
    i10, i90 = (_intensity_of(ordered, share, highest=highest, step=step) for share in (0.1, 0.9))
    return {"v10": v10, "v90": v90, "i10": i10, "i90": i90, "diff_v10_v90": v10 - v90, "diff_i10_i90": i10 - i90}


def _volume_above(ordered: Vector, intensity: float) -> float:
    """Share of voxels with at least this intensity."""
    return 1 - float(np.searchsorted(ordered, intensity - 1e-9 * max(abs(intensity), 1), side="left")) / len(ordered)


def _intensity_of(ordered: Vector, share: float, *, highest: float, step: float) -> float:
    """The smallest intensity of the histogram that at most ``share`` of the voxels reach.

    ``#(x >= i) <= share n``: the voxels below are at least the rest, so i lies one step above the last of them.
    """
    n_below = int(np.ceil(len(ordered) * (1 - share) - 1e-9))
    if n_below == 0:
        return float(ordered[0])
    below = ordered[n_below - 1]
    if step == 0:
        return float(ordered[min(int(np.searchsorted(ordered, below, side="right")), len(ordered) - 1)])
    return float(min(below + step, highest))
