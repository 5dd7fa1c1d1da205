"""Small changes of a case that a robust feature should not notice: turns, shifts, noise, a larger or smaller ROI.

After Zwanenburg et al. 2019 (doi 10.1038/s41598-018-36938-4), methods R, T, N and V. A perturbation is drawn first and
applied afterwards, so it can be named, repeated and compared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pywt
from scipy.ndimage import affine_transform, distance_transform_edt, gaussian_filter

from client.imaging.geometry import margin_box
from common.config.robustness import RobustnessConfig
from common.errors import CaseError, Code
from common.rng import generator
from common.volume import Volume

NORMAL_MAD = 0.6744897501960817
"""Median absolute value of a standard normal number."""

DISTANCE_DECIMALS = 6
"""Distances to the border (mm) that agree to this many decimals are one layer."""

MARGIN_MM = 20.0
"""Image kept around the ROI, beyond what turning moves: what filters and growing see."""


@dataclass(frozen=True)
class Perturbation:
    """One combination.

    Parameters
    ----------
    rotation_deg : float
        In the slices, about the ROI's centre.
    translation : float
        Along all three axes, in voxels.
    noise : int
        Number of the noise draw, from 1; 0 adds none.
    volume_change : float
        Share of the ROI's volume that is added, or taken away where negative.
    """

    rotation_deg: float
    translation: float
    noise: int
    volume_change: float


def perturbations(config: RobustnessConfig) -> tuple[Perturbation, ...]:
    """Every combination, in a fixed order."""
    noises = range(1, config.noise_repetitions + 1) if config.noise_repetitions else (0,)
    combined = itertools.product(config.rotations_deg, config.translations, noises, config.volume_changes)
    return tuple(Perturbation(*values) for values in combined)


def neighbourhood(image: Volume, roi: Volume, *, config: RobustnessConfig) -> tuple[Volume, Volume]:
    """The part of a case that its perturbations need."""
    box = margin_box(roi, margin_mm=0.0)
    radius = float(np.linalg.norm(np.multiply(box.shape, roi.spacing_mm))) / 2
    turn = np.deg2rad(max(abs(angle) for angle in config.rotations_deg))
    wide = margin_box(roi, margin_mm=MARGIN_MM + radius * float(np.sin(turn)))
    return image.crop(wide.start, wide.stop), roi.crop(wide.start, wide.stop)


def perturb(
    image: Volume, roi: Volume, change: Perturbation, *, noise_std: float, seed: int, case_id: str
) -> tuple[Volume, Volume]:
    """Image and ROI after one combination: noise, then turn and shift in one interpolation, then growth or erosion.

    Parameters
    ----------
    noise_std : float
        As `noise_level` gives it.
    seed : int
        The study's; with ``case_id`` and the number of the draw it fixes the noise.

    Raises
    ------
    CaseError
        ``ROI_TOO_SMALL`` where nothing is left of the ROI.
    """
    array = image.array.astype(np.float64)
    if change.noise:
        draw = generator(seed, "perturbation", case_id, change.noise)
        array = array + noise_std * draw.standard_normal(array.shape)
    inside = roi.array.astype(np.float64)
    if change.rotation_deg or change.translation:
        matrix, offset = _rigid(roi, change)
        array = affine_transform(array, matrix, offset, order=1, mode="nearest")
        inside = affine_transform(inside, matrix, offset, order=1, mode="constant")
    moved = np.round(inside, 6) >= 0.5
    if not moved.any():
        raise CaseError(case_id, "turning the ROI leaves none of it", code=Code.ROI_TOO_SMALL)
    changed = resize(roi.with_array(moved), share=change.volume_change)
    if not changed.array.any():
        raise CaseError(
            case_id, f"eroding the ROI by {-change.volume_change:.0%} leaves none of it", code=Code.ROI_TOO_SMALL
        )
    return image.with_array(array), changed


def resize(roi: Volume, *, share: float) -> Volume:
    """The ROI grown or eroded to ``1 + share`` of its voxels, rounded; it lies within the former or holds it.

    Whole layers of equal distance (mm) to the border go or come first; of the last layer, the voxels deepest within
    the smoothed ROI, so that corners go first.
    """
    inside = roi.array.astype(np.bool_)
    if share == 0:
        return roi
    target = round((1 + share) * int(inside.sum()))
    spacing = roi.spacing_mm
    outwards = distance_transform_edt(~inside, sampling=spacing)
    inwards = distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    distance = np.round(outwards - inwards, DISTANCE_DECIMALS)
    depth = gaussian_filter(inside.astype(np.float64), max(spacing) / np.asarray(spacing), mode="constant")
    levels, counts = np.unique(distance, return_counts=True)
    whole = int(np.searchsorted(np.cumsum(counts), target, side="right"))  # layers that are taken as a whole
    taken = distance < levels[whole] if whole < len(levels) else np.ones_like(inside)
    rest = target - int(taken.sum())
    if rest > 0:
        layer = np.flatnonzero(distance == levels[whole])
        deepest = np.argsort(-depth.ravel()[layer], kind="stable")[:rest]
        taken.ravel()[layer[deepest]] = True
    return roi.with_array(taken)


def noise_level(image: Volume) -> float:
    """Standard deviation of the noise, from the finest diagonal wavelet coefficients of each slice (coiflet 1).

    Source: Donoho and Johnstone 1994, doi 10.1093/biomet/81.3.425, section 4; used so by Zwanenburg et al. 2019.
    """
    finest = [np.abs(pywt.dwt2(plane, "coif1", mode="symmetric")[1][2]).ravel() for plane in image.array]
    return float(np.median(np.concatenate(finest))) / NORMAL_MAD


def _rigid(roi: Volume, change: Perturbation) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matrix and offset, in voxels, from a voxel of the new grid to its place in the old one."""
    angle = np.deg2rad(change.rotation_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    spacing = np.asarray(roi.spacing_mm)
    matrix = turn * spacing[None, :] / spacing[:, None]
    centre = np.argwhere(roi.array).mean(axis=0)
    return matrix, centre - matrix @ centre - change.translation
