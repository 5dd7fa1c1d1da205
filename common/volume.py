"""`Volume`: a 3D image with its place in the patient.

Frame: world coordinates are LPS (x to the patient's left, y to the back, z to the head), in mm, everywhere in fedrad.
Array axes are ``(D, H, W)`` (slices, rows, columns: the order of ``SimpleITK.GetArrayFromImage``), and the columns of
``affine`` stand in the *same* order: ``world = affine @ (d, h, w, 1)``. So ``spacing_mm`` is in array order too; the
configuration files, like DICOM and pyradiomics, give x, y, z and are turned once, where they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

SPACING_TOLERANCE_MM = 1e-3
"""Two spacings closer than this are one: scanners and converters round to a micrometre."""

ORIGIN_TOLERANCE_MM = 1e-2
"""Two origins closer than this are one: below a hundredth of a voxel no resampling could show it."""

DIRECTION_TOLERANCE = 1e-4
"""Direction cosines closer than this are one: NIfTI stores quaternions in single precision."""

FloatArray = npt.NDArray[np.floating]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar 3D image or ROI on a regular grid.

    Parameters
    ----------
    array : ndarray, shape (D, H, W)
        Voxels; intensities are float32 or float64, ROIs bool.
    affine : ndarray, shape (4, 4)
        Maps array indices ``(d, h, w, 1)`` to LPS coordinates in mm.
    """

    array: npt.NDArray[np.generic]
    affine: Affine

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"a Volume has 3 axes (D, H, W), got shape {self.array.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"affine must be a finite 4 x 4 matrix, got shape {self.affine.shape}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-12:
            raise ValueError("affine is singular: two voxel axes point the same way")

    @classmethod
    def from_geometry(
        cls,
        array: npt.NDArray[np.generic],
        *,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
        direction: npt.NDArray[np.float64] | None = None,
    ) -> Volume:
        """Build from spacing (array order), origin (LPS x, y, z) and direction (columns: unit vectors of D, H, W).

        Without ``direction`` the array axes D, H, W run along z, y, x: an axial stack.
        """
        if direction is None:
            direction = np.eye(3)[:, ::-1]
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction, dtype=np.float64) * np.asarray(spacing_mm, dtype=np.float64)
        affine[:3, 3] = origin_mm
        return cls(array, affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        d, h, w = self.array.shape
        return d, h, w

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along D, H, W in mm."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """LPS coordinates of the centre of voxel (0, 0, 0)."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def direction(self) -> npt.NDArray[np.float64]:
        """Unit vectors of the array axes D, H, W as columns, in LPS, shape (3, 3)."""
        axes: npt.NDArray[np.float64] = self.affine[:3, :3] / np.asarray(self.spacing_mm)
        return axes

    @property
    def voxel_volume_mm3(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def with_array(self, array: npt.NDArray[np.generic]) -> Volume:
        """The same grid with other voxels; the shape must not change."""
        if array.shape != self.array.shape:
            raise ValueError(f"array of shape {array.shape} does not fit the grid {self.array.shape}")
        return replace(self, array=array)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """Voxels ``start <= index < stop`` along D, H, W, at the same place in the world.

        Raises
        ------
        ValueError
            If the window is empty or reaches beyond the volume.
        """
        if not all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"window {tuple(start)} to {tuple(stop)} does not lie in a volume of shape {self.shape}")
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ np.asarray(start, dtype=np.float64) + self.affine[:3, 3]
        return Volume(self.array[window], affine)


def same_grid(a: Volume, b: Volume) -> bool:
    """True where two volumes lie on one grid, within the named tolerances."""
    return grid_difference(a, b) == ""


def grid_difference(a: Volume, b: Volume) -> str:
    """In words, how the grid of ``b`` differs from that of ``a``; empty where they agree within the tolerances."""
    if a.shape != b.shape:
        return f"shape {b.shape}, expected {a.shape}"
    if not np.allclose(a.spacing_mm, b.spacing_mm, rtol=0, atol=SPACING_TOLERANCE_MM):
        return f"spacing {_mm(b.spacing_mm)}, expected {_mm(a.spacing_mm)}"
    if not np.allclose(a.direction, b.direction, rtol=0, atol=DIRECTION_TOLERANCE):
        return f"direction differs by {np.abs(a.direction - b.direction).max():.2g}, tolerance {DIRECTION_TOLERANCE:g}"
    if not np.allclose(a.origin_mm, b.origin_mm, rtol=0, atol=ORIGIN_TOLERANCE_MM):
        return f"origin {_mm(b.origin_mm)}, expected {_mm(a.origin_mm)}"
    return ""


def _mm(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"
