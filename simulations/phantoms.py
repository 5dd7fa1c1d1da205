"""Generated lung nodules whose malignancy shows in shape, texture and, weakly, in the patient.

The signs are those radiologists use: lobulation, spiculation, uneven attenuation, size; age and pack-years. Each sign
is a latent number drawn around plus or minus half of its separation, so the classes overlap and the best possible
area under the ROC curve is known (`best_auc`). Nothing here is a patient, and no result on it is a clinical one.

Frame: LPS; array axes ``(D, H, W)`` run along z, y, x. Lengths in mm, intensities in HU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from common.volume import Volume
from simulations.scanners import FloatGrid, Scanner, correlated_noise

FIELD_OF_VIEW_MM = 36.0
"""Side of the generated cube: the largest nodule with its spicules, and the lung around it."""

SEPARATION = {"lobulation": 0.8, "spiculation": 0.9, "heterogeneity": 1.8, "size": 0.4, "age": 0.4, "pack_years": 0.5}
"""Distance between the class means of each latent sign, in its own standard deviations."""


@dataclass(frozen=True, eq=False)
class Nodule:
    """A generated case: ``image`` in HU and ``roi`` (bool) on one grid, ``clinical`` by column name."""

    image: Volume
    roi: Volume
    clinical: dict[str, float]


def nodule(rng: np.random.Generator, *, malignant: bool, scanner: Scanner, mean_diameter_mm: float = 13.0) -> Nodule:
    """Draw one nodule and its image on ``scanner``: the same generator state gives the same case.

    Parameters
    ----------
    mean_diameter_mm : float
        Of the hospital's nodules: screening finds smaller ones than a referral centre sees.
    """
    signs = {name: float(rng.normal((0.5 if malignant else -0.5) * d, 1.0)) for name, d in SEPARATION.items()}
    grid = _grid(scanner)
    distance = _distance_inside(rng, grid, signs, mean_diameter_mm)
    anatomy = _lung(rng, grid, scanner)
    soft = 1.0 / (1.0 + np.exp(-np.clip(distance / 0.4, -30.0, 30.0)))
    anatomy = anatomy + soft * (_tissue(rng, grid, scanner, signs) - anatomy)
    image = scanner.acquire(anatomy, rng)
    roi = _reader_contour(rng, distance)
    origin = tuple(float(v) for v in rng.uniform(-80.0, 80.0, size=3))
    return Nodule(
        image=Volume.from_geometry(image, spacing_mm=scanner.spacing_mm, origin_mm=origin),
        roi=Volume.from_geometry(roi, spacing_mm=scanner.spacing_mm, origin_mm=origin),
        clinical={
            "age_years": round(float(np.clip(64.0 + 9.0 * signs["age"], 35.0, 90.0)), 1),
            "pack_years": round(max(0.0, 22.0 + 15.0 * signs["pack_years"]), 1),
            "female": float(rng.random() < 0.5),
        },
    )


def best_auc() -> float:
    """Area under the ROC curve of someone who sees every latent sign: Phi(d / sqrt 2) of their joint separation d."""
    joint = math.sqrt(sum(d * d for d in SEPARATION.values()))
    return 0.5 * (1.0 + math.erf(joint / 2.0))


def _grid(scanner: Scanner) -> FloatGrid:
    """Coordinates of the voxel centres about the centre of the cube, shape (3, D, H, W), in mm."""
    axes = []
    for spacing in scanner.spacing_mm:
        n = max(round(FIELD_OF_VIEW_MM / spacing), 2)
        axes.append((np.arange(n) - (n - 1) / 2) * spacing)
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _distance_inside(
    rng: np.random.Generator, grid: FloatGrid, signs: dict[str, float], mean_diameter_mm: float
) -> FloatGrid:
    """Distance to the surface along the ray from the centre, positive inside, shape (D, H, W)."""
    radius = np.clip(0.5 * mean_diameter_mm + 1.3 * signs["size"], 3.5, 9.5)
    centre = rng.uniform(-1.5, 1.5, size=(3, 1, 1, 1))
    stretch = rng.uniform(0.85, 1.2, size=(3, 1, 1, 1))
    offset = ((grid - centre) / (stretch / stretch.prod() ** (1 / 3))).astype(np.float32)
    range_mm = np.sqrt((offset**2).sum(axis=0)) + np.float32(1e-3)
    direction = offset / range_mm
    lobes, spikes = _share(signs["lobulation"]), _share(signs["spiculation"])
    bumps = _bumps(rng, direction, n=int(rng.integers(4, 8)), height=0.40 * lobes, width=0.12)
    bumps += _bumps(rng, direction, n=int(rng.integers(8, 16)), height=0.85 * spikes, width=0.015)
    return np.asarray(radius * (1.0 + bumps - 0.12 * lobes) - range_mm, dtype=np.float32)


def _bumps(rng: np.random.Generator, direction: FloatGrid, *, n: int, height: float, width: float) -> FloatGrid:
    """Sum of ``n`` bumps on the unit sphere at random directions, at the ``direction`` (3, D, H, W) of each voxel."""
    tips = rng.normal(size=(n, 3))
    tips = (tips / np.linalg.norm(tips, axis=1, keepdims=True)).astype(np.float32)
    total = np.zeros(direction.shape[1:], dtype=np.float32)
    for tip, share in zip(tips, rng.uniform(0.4, 1.0, size=n), strict=True):
        total += np.float32(height * share) * np.exp((np.tensordot(tip, direction, 1) - 1.0) / np.float32(width))
    return total


def _lung(rng: np.random.Generator, grid: FloatGrid, scanner: Scanner) -> FloatGrid:
    """Aerated lung with vessels in both classes."""
    shape = grid.shape[1:]
    lung = -850.0 + 35.0 * correlated_noise(rng, shape, length_mm=2.0, spacing_mm=scanner.spacing_mm)
    for _ in range(int(rng.integers(1, 5))):
        axis = rng.normal(size=3)
        axis = (axis / np.linalg.norm(axis)).astype(np.float32)
        offset = grid - rng.uniform(-13.0, 13.0, size=(3, 1, 1, 1)).astype(np.float32)
        along = np.tensordot(axis, offset, 1)
        away = np.sqrt(np.maximum((offset**2).sum(axis=0) - along**2, 0.0))
        vessel = 1.0 / (1.0 + np.exp(np.clip((away - rng.uniform(0.7, 1.8)) / 0.3, -30.0, 30.0)))
        lung = lung + vessel * (10.0 - lung)
    return np.asarray(lung, dtype=np.float32)


def _tissue(rng: np.random.Generator, grid: FloatGrid, scanner: Scanner, signs: dict[str, float]) -> FloatGrid:
    """Attenuation of the nodule: even where benign, uneven where malignant."""
    even = float(np.clip(rng.normal(20.0, 35.0), -100.0, 100.0))
    grain = correlated_noise(rng, grid.shape[1:], length_mm=1.5, spacing_mm=scanner.spacing_mm)
    return np.asarray(even + 140.0 * _share(signs["heterogeneity"]) * grain, dtype=np.float32)


def _reader_contour(rng: np.random.Generator, distance: FloatGrid) -> npt.NDArray[np.bool_]:
    """A reader's contour: the surface, a little off, thin spicules cut, one piece."""
    inside = distance > rng.uniform(-0.4, 0.4)
    opened = ndimage.binary_opening(inside)
    pieces, n = ndimage.label(opened if opened.any() else inside)
    if n > 1:
        sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, range(1, n + 1))
        pieces = pieces == 1 + int(np.argmax(sizes))
    return np.asarray(pieces > 0, dtype=np.bool_)


def _share(sign: float) -> float:
    """A latent sign as a strength between 0 and 1."""
    return 1.0 / (1.0 + math.exp(-1.3 * sign))
