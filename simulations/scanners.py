"""CT scanners of the generated hospitals: what a scanner and its protocol do to the same lung.

A scanner blurs (reconstruction kernel and slice thickness), adds noise whose grain depends on the kernel, and reads
Hounsfield units a little off. Field strengths and doses vary within one hospital, so each case draws its own noise.
Legend: arrays are ``(D, H, W)``; lengths in mm; intensities in HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatGrid = npt.NDArray[np.float32]

DOSE_SPREAD = 0.15
"""Relative spread of the noise between the cases of one scanner: patients differ in size, doses are adapted."""

TRUNCATE = 3.0
"""Gaussian kernels end at three standard deviations; what is cut off is below 0.3 %."""


@dataclass(frozen=True)
class Scanner:
    """A scanner with one chest protocol.

    Parameters
    ----------
    spacing_mm : tuple of float
        Distance of voxel centres along D, H, W.
    blur_mm : tuple of float
        Standard deviation of the point spread along D, H, W.
    noise_hu : float
        Standard deviation of the noise.
    grain_mm : float
        Standard deviation of the Gaussian that correlates the noise: sharp kernels have fine grain.
    offset_hu, gain : float
        Calibration: ``read = gain * true + offset_hu``.
    """

    spacing_mm: tuple[float, float, float]
    blur_mm: tuple[float, float, float]
    noise_hu: float
    grain_mm: float
    offset_hu: float = 0.0
    gain: float = 1.0

    def acquire(self, anatomy: FloatGrid, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """The image of ``anatomy`` (true HU at the voxel centres of this scanner's grid), in whole HU."""
        seen = smooth(anatomy, self.blur_mm, self.spacing_mm)
        dose = 1.0 + DOSE_SPREAD * float(rng.uniform(-1.0, 1.0))
        noise = correlated_noise(rng, anatomy.shape, length_mm=self.grain_mm, spacing_mm=self.spacing_mm)
        read = self.gain * (seen + self.noise_hu * dose * noise) + self.offset_hu
        return np.round(np.clip(read, -1024.0, 3071.0)).astype(np.float32)


def correlated_noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    length_mm: float,
    spacing_mm: tuple[float, float, float],
) -> FloatGrid:
    """A Gaussian random field of mean 0 and standard deviation 1 over the grid, smooth over ``length_mm``."""
    white = rng.standard_normal(shape, dtype=np.float32)
    field = smooth(white, (length_mm, length_mm, length_mm), spacing_mm)
    field = field - field.mean()
    return np.asarray(field / field.std(), dtype=np.float32)


def smooth(array: FloatGrid, sigma_mm: tuple[float, float, float], spacing_mm: tuple[float, float, float]) -> FloatGrid:
    """Gaussian smoothing with standard deviations in mm."""
    sigma = [length / spacing for length, spacing in zip(sigma_mm, spacing_mm, strict=True)]
    return np.asarray(ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=TRUNCATE), dtype=np.float32)
