"""How much of a patient's image a reconstruction shows, against the mean image that an attacker has anyway.

Legend: ``C`` channels, ``D H W`` voxels. Images of one organ look alike, so a plain correlation flatters every
attack: the mean image of other patients may reach 0.9. What a reconstruction shows of *this* patient is the correlation
of what is left of both once the mean image is taken away (`Similarity.beyond_mean`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

Patch = npt.NDArray[np.floating]

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Window side in voxels and constants of Wang et al. 2004 ("Image quality assessment"), section III.B."""


@dataclass(frozen=True)
class Similarity:
    """A reconstruction against the truth.

    Parameters
    ----------
    correlation : float
        Of all voxels of all image channels (the ROI is none).
    psnr_db : float
    ssim : float
        Mean structural similarity (Wang et al. 2004), over the image channels.
    beyond_mean : float
        Correlation after the mean image is taken away from both; 0 is what the mean image itself shows.
    roi_dice : float
        Overlap of the ROIs at a threshold of one half.
    """

    correlation: float
    psnr_db: float
    ssim: float
    beyond_mean: float
    roi_dice: float


def compare(found: Patch, truth: Patch, mean: Patch) -> Similarity:
    """Both of shape (C, D, H, W) with the ROI as the last channel."""
    image, true_image, mean_image = (np.asarray(a[:-1], dtype=np.float64) for a in (found, truth, mean))
    span = float(true_image.max() - true_image.min()) or 1.0
    error = float(np.mean((image - true_image) ** 2))
    return Similarity(
        correlation=correlation(image, true_image),
        psnr_db=float(10 * np.log10(span**2 / max(error, 1e-12))),
        ssim=float(np.mean([ssim(a, b, span=span) for a, b in zip(image, true_image, strict=True)])),
        beyond_mean=correlation(image - mean_image, true_image - mean_image),
        roi_dice=dice(found[-1], truth[-1]),
    )


def correlation(a: Patch, b: Patch) -> float:
    """Pearson's; 0 where one of both is constant, which shows nothing."""
    x, y = (np.asarray(v, dtype=np.float64).ravel() for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def ssim(a: Patch, b: Patch, *, span: float) -> float:
    """Mean structural similarity of two grids of equal shape whose values span ``span``."""
    size = min(SSIM_WINDOW, *a.shape)
    mean_a, mean_b = uniform_filter(a, size), uniform_filter(b, size)
    variance_a = uniform_filter(a * a, size) - mean_a**2
    variance_b = uniform_filter(b * b, size) - mean_b**2
    covariance = uniform_filter(a * b, size) - mean_a * mean_b
    c1, c2 = (SSIM_K1 * span) ** 2, (SSIM_K2 * span) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def dice(a: Patch, b: Patch) -> float:
    """Overlap of two masks (values above one half); 1 where both are empty."""
    x, y = a > 0.5, b > 0.5
    total = int(x.sum()) + int(y.sum())
    return 2 * int((x & y).sum()) / total if total else 1.0


def paired(found: Patch, truth: Patch, mean: Patch) -> npt.NDArray[np.int64]:
    """Which reconstruction stands for which case of a batch, whose order no update tells: the best total likeness."""
    likeness = np.array([[correlation(a[:-1] - mean[:-1], b[:-1] - mean[:-1]) for a in found] for b in truth])
    _, columns = linear_sum_assignment(-likeness)
    return np.asarray(columns, dtype=np.int64)


def rank_of(found: Patch, truth: int, candidates: Patch, mean: Patch) -> int:
    """Place of case number ``truth`` among ``candidates`` (n, C, D, H, W), ordered by likeness to what was found.

    1: an attacker who holds all these images picks the right patient.
    """
    likeness = [correlation(found[:-1] - mean[:-1], candidate[:-1] - mean[:-1]) for candidate in candidates]
    return 1 + int(sum(value > likeness[truth] for value in likeness))
