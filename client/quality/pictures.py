"""Pictures of slices with the ROI's outline, as PNG, in true proportions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib.image
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from client.imaging.geometry import to_lps
from common.volume import Volume

LONGEST_SIDE = 220
"""Pixels of a picture's longer side."""

WINDOW_PERCENTILES = (0.5, 99.5)
OUTLINE = np.array([255, 176, 0], dtype=np.uint8)
"""Amber: told from any grey, and by colour-blind readers (Okabe and Ito's palette)."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice: pixels as PNG bytes, its number among how many, and the grey window."""

    png: bytes
    slice_number: int
    n_slices: int
    window: tuple[float, float]

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def slice_picture(image: Volume, roi: Volume) -> Picture:
    """The axial slice with most of the ROI, patient's right on the left, back below, as radiologists look at it.

    Grey runs over the percentiles of that slice.
    """
    upright, outline_of = to_lps(image), to_lps(roi)
    inside = outline_of.array.astype(np.bool_)
    number = int(np.argmax(inside.sum(axis=(1, 2))))
    plane = upright.array[number].astype(np.float64)
    low, high = (float(x) for x in np.percentile(plane, WINDOW_PERCENTILES))
    grey = np.clip((plane - low) / (high - low if high > low else 1.0), 0, 1)
    _, dy, dx = upright.spacing_mm
    scale = LONGEST_SIDE / max(plane.shape[0] * dy, plane.shape[1] * dx)
    rows, columns = (max(1, round(n * s * scale)) for n, s in zip(plane.shape, (dy, dx), strict=True))
    pixels = np.repeat((255 * _resized(grey, rows, columns)).astype(np.uint8)[..., None], 3, axis=2)
    mask = _resized(inside[number].astype(np.float64), rows, columns) >= 0.5
    pixels[mask & ~ndimage.binary_erosion(mask)] = OUTLINE
    return Picture(_png(pixels), number + 1, inside.shape[0], (low, high))


def _resized(plane: npt.NDArray[np.float64], rows: int, columns: int) -> npt.NDArray[np.float64]:
    y = (np.arange(rows) + 0.5) * plane.shape[0] / rows - 0.5
    x = (np.arange(columns) + 0.5) * plane.shape[1] / columns - 0.5
    found: npt.NDArray[np.float64] = ndimage.map_coordinates(
        plane, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest"
    )
    return found


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return buffer.getvalue()
