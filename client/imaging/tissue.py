"""The reference tissue of an MR image: the stripe around a peak of the body's histogram.

After WhiteStripe (Shinohara et al. 2014, doi 10.1016/j.nicl.2014.08.008), which takes the voxels within a share of the
histogram around the white-matter peak and standardises by their mean and spread. The peak is found on a smoothed
histogram, so no atlas or segmentation is needed; for bodies other than the head it is the most frequent tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from client.imaging.intensity import Location, location
from common.volume import FloatArray

HISTOGRAM_BINS = 400
SMOOTHING_BINS = 8.0
"""Standard deviation of the smoothing of the histogram: 2 % of the range, so that noise has no peaks."""

TAIL_PERCENT = 0.5
"""The histogram runs over all but this share at either end, so that a few bright voxels do not squeeze it."""

SMALLEST_PEAK = 0.1
"""A local maximum below this share of the highest is no tissue of its own."""


@dataclass(frozen=True)
class Stripe:
    """The stripe's limits in intensity, the peak, and the mean and spread of the voxels between the limits."""

    peak: float
    lower: float
    upper: float
    place: Location


def reference_stripe(values: FloatArray, *, peak: Literal["last", "highest"], width: float) -> Stripe:
    """The stripe of ``width`` (a share of the voxels) to either side of a peak of ``values`` (n_voxels,).

    Raises
    ------
    ValueError
        Where all values, or all within the stripe, are equal.
    """
    centre = _peak(values, peak)
    rank = float((values <= centre).mean())
    lower, upper = np.quantile(values, [max(rank - width, 0.0), min(rank + width, 1.0)])
    inside = values[(values >= lower) & (values <= upper)]
    place = location(inside)
    if place.std == 0:
        raise ValueError("all intensities of the reference tissue are equal")
    return Stripe(centre, float(lower), float(upper), place)


def _peak(values: FloatArray, which: str) -> float:
    low, high = np.percentile(values, [TAIL_PERCENT, 100 - TAIL_PERCENT])
    if not high > low:
        raise ValueError("all intensities are equal")
    from scipy.ndimage import gaussian_filter1d  # here: scipy is loaded by studies that need it

    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(float(low), float(high)))
    smooth = gaussian_filter1d(counts.astype(np.float64), SMOOTHING_BINS, mode="constant")
    padded = np.concatenate([[-1.0], smooth, [-1.0]])
    maxima = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    maxima = maxima[smooth[maxima] >= SMALLEST_PEAK * smooth.max()]
    chosen = maxima[-1] if which == "last" else maxima[np.argmax(smooth[maxima])]
    return float(0.5 * (edges[chosen] + edges[chosen + 1]))
