"""Intensity statistics and intensity histogram features (IBSI reference manual 3.3 and 3.4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

STATISTICS = (
    "mean", "var", "skew", "kurt", "median", "min", "p10", "p90", "max", "iqr", "range", "mad", "rmad", "medad",
    "cov", "qcod", "energy", "rms",
)  # fmt: skip
HISTOGRAM = (
    *STATISTICS[:9], "mode", *STATISTICS[9:16], "entropy", "uniformity", "max_grad", "max_grad_g", "min_grad",
    "min_grad_g",
)  # fmt: skip


def intensity_statistics(values: Vector) -> dict[str, float]:
    """The 18 statistics of intensities (n_voxels,), without prefix; kurtosis is in excess of 3.

    Skewness and kurtosis of constant intensities are 0, as IBSI sets them; the coefficient of variation and the
    quartile coefficient of dispersion are NaN where their denominator is 0.
    """
    mean = values.mean()
    centred = values - mean
    squares = centred**2
    var = squares.mean()
    p10, p25, median, p75, p90 = np.percentile(values, [10, 25, 50, 75, 90])
    low, high = values.min(), values.max()
    robust = values[(values >= p10) & (values <= p90)]
    energy = float(values @ values)
    return {
        "mean": float(mean),
        "var": float(var),
        "skew": float((squares * centred).mean() / var**1.5) if var > 0 else 0.0,
        "kurt": float((squares**2).mean() / var**2 - 3) if var > 0 else 0.0,
        "median": float(median),
        "min": float(low),
        "p10": float(p10),
        "p90": float(p90),
        "max": float(high),
        "iqr": float(p75 - p25),
        "range": float(high - low),
        "mad": float(np.abs(centred).mean()),
        "rmad": float(np.abs(robust - robust.mean()).mean()),
        "medad": float(np.abs(values - median).mean()),
        "cov": float(np.sqrt(var) / mean) if mean != 0 else float("nan"),
        "qcod": float((p75 - p25) / (p75 + p25)) if p75 + p25 != 0 else float("nan"),
        "energy": energy,
        "rms": float(np.sqrt(energy / values.size)),
    }


def histogram_features(bins: npt.NDArray[np.int64], *, n_grey: int) -> dict[str, float]:
    """The 23 features of grey levels (n_voxels,) from 1 to ``n_grey``, without prefix.

    Where several levels are the most frequent, the mode is the one nearest to the mean; gradients are central
    differences inside and one-sided at the ends.
    """
    statistics = intensity_statistics(bins.astype(np.float64))
    counts = np.bincount(bins, minlength=n_grey + 1)[1:].astype(np.float64)
    share = counts[counts > 0] / len(bins)
    most = np.flatnonzero(counts == counts.max()) + 1
    gradient = np.gradient(counts) if n_grey > 1 else np.zeros(1)
    values = {name: statistics[name] for name in STATISTICS[:16]}
    values |= {
        "mode": float(most[np.abs(most - statistics["mean"]).argmin()]),
        "entropy": float(-(share * np.log2(share)).sum()),
        "uniformity": float((share**2).sum()),
        "max_grad": float(gradient.max()),
        "max_grad_g": float(gradient.argmax() + 1),
        "min_grad": float(gradient.min()),
        "min_grad_g": float(gradient.argmin() + 1),
    }
    return {name: values[name] for name in HISTOGRAM}
