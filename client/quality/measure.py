"""What the report keeps of one case: numbers, two curves and two pictures an image. The volumes are let go."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from client.imaging import Case, intensity
from client.imaging.geometry import lps_axes, stack_of
from client.quality.pictures import Picture, slice_picture
from common.volume import FloatArray, Volume

CURVE_BINS = 120
CURVE_PERCENTILES = (0.1, 99.9)
"""A curve runs over all but these tails, so that a few bright voxels do not flatten it."""

PLANES = {2: "axial", 1: "coronal", 0: "sagittal"}
"""Name of a stack by the world axis (x, y, z) that its slices are counted along."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A histogram: bin centres and density, each (n_bins,)."""

    centres: npt.NDArray[np.float64]
    density: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """The grid of an image.

    Parameters
    ----------
    shape, spacing_mm : tuple of 3
        In x, y, z order of the file (columns, rows, slices).
    plane : str
        ``axial``, ``coronal`` or ``sagittal``: what a slice shows.
    tilt_deg : float
        Largest angle between a grid axis and the nearest axis of the patient.
    left_handed : bool
        Columns, rows and slices form a left-handed system.
    ratio : float
        Largest over smallest spacing.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    plane: str
    tilt_deg: float
    left_handed: bool
    ratio: float


@dataclass(frozen=True)
class RoiQuality:
    """An ROI: size, parts, enclosed holes, slices that it touches, and whether it reaches the image's border."""

    n_voxels: int
    volume_ml: float
    n_parts: int
    n_holes: int
    n_slices: int
    touches_border: bool
    mean: float
    std: float


@dataclass(frozen=True, eq=False)
class ImageQuality:
    """One image of a case, as read (``before``) and on the study's grid and scale (``after``).

    Parameters
    ----------
    digest : str
        SHA-256 of voxels and shape: equal in two cases means one image given twice.
    percentiles : tuple of 5 floats
        Minimum of the image as read; 5th, 50th and 95th percentile of its body; maximum of the image.
    share_at_extremes : float
        Largest share of body voxels at the very minimum or maximum: clipping and overflow leave such piles.
    steps : tuple of str
        What was applied, with the numbers that were learned, in words.
    """

    geometry: Geometry
    roi: RoiQuality
    digest: str
    percentiles: tuple[float, float, float, float, float]
    share_at_extremes: float
    curve_before: Curve
    picture_before: Picture
    curve_after: Curve | None
    picture_after: Picture | None
    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CaseQuality:
    """All images of a case and its coded clinical values (NaN where missing). ``case_id`` only orders the report."""

    case_id: str
    images: Mapping[str, ImageQuality]
    clinical: Mapping[str, float]


def image_quality(before: Case, after: Case | None, *, image: str) -> ImageQuality:
    """Measure one image of a case as it was read, and as it is after the study's steps (None: there are none)."""
    volume = before.images[image]
    array: FloatArray = volume.array  # type: ignore[assignment]  # images are floating by `Case`'s contract
    body = _body(volume)
    low, high = float(array.min()), float(array.max())
    p5, median, p95 = (float(x) for x in np.percentile(array[body], [5, 50, 95]))
    return ImageQuality(
        geometry=measure_geometry(volume),
        roi=measure_roi(volume, before.roi),
        digest=hashlib.sha256(repr(volume.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest(),
        percentiles=(low, p5, median, p95, high),
        share_at_extremes=float(max((array[body] == low).mean(), (array[body] == high).mean())),
        curve_before=curve(array[body]),
        picture_before=slice_picture(volume, before.roi),
        curve_after=None if after is None else _curve_of(after, image),
        picture_after=None if after is None else slice_picture(after.images[image], after.roi),
        steps=() if after is None else tuple(_in_words(after, image)),
    )


def measure_geometry(volume: Volume) -> Geometry:
    axes, _ = lps_axes(volume)
    nearest = np.array([np.abs(volume.direction[world, axis]) for world, axis in zip((2, 1, 0), axes, strict=True)])
    slices_along = (2, 1, 0)[axes.index(0)]
    d, h, w = volume.shape
    dz, dy, dx = volume.spacing_mm
    return Geometry(
        shape=(w, h, d),
        spacing_mm=(dx, dy, dz),
        plane=PLANES[slices_along],
        tilt_deg=float(np.rad2deg(np.arccos(np.clip(nearest, 0, 1)).max())),
        left_handed=bool(np.linalg.det(volume.direction[:, ::-1]) < 0),
        ratio=stack_of(volume).ratio,
    )


def measure_roi(image: Volume, roi: Volume) -> RoiQuality:
    """Measure an ROI that is not empty."""
    inside = roi.array.astype(np.bool_)
    box = ndimage.find_objects(inside.astype(np.int8))[0]
    part = np.pad(inside[box], 1)
    values = image.array[inside].astype(np.float64)
    neighbours = ndimage.generate_binary_structure(3, 3)
    # with 26 neighbours for the ROI, what is outside is connected through 6: the outside itself is one part
    n_outside = ndimage.label(~part)[1]
    return RoiQuality(
        n_voxels=int(inside.sum()),
        volume_ml=float(inside.sum()) * roi.voxel_volume_mm3 / 1000,
        n_parts=int(ndimage.label(part, neighbours)[1]),
        n_holes=int(n_outside) - 1,
        n_slices=int(inside.any(axis=(1, 2)).sum()),
        touches_border=any(span.start == 0 or span.stop == n for span, n in zip(box, inside.shape, strict=True)),
        mean=float(values.mean()),
        std=float(values.std()),
    )


def curve(values: FloatArray) -> Curve:
    """The density of intensities (n_voxels,) over all but the tails; one bin where they are all equal."""
    low, high = (float(x) for x in np.percentile(values, CURVE_PERCENTILES))
    if not high > low:
        return Curve(np.array([low]), np.array([1.0]))
    counts, edges = np.histogram(values, bins=CURVE_BINS, range=(low, high))
    width = (high - low) / CURVE_BINS
    return Curve(0.5 * (edges[:-1] + edges[1:]), counts / (counts.sum() * width))


def _curve_of(case: Case, image: str) -> Curve:
    volume = case.images[image]
    array: FloatArray = volume.array  # type: ignore[assignment]  # images are floating by `Case`'s contract
    return curve(array[_body(volume)])


def _body(volume: Volume) -> npt.NDArray[np.bool_]:
    try:
        return intensity.body_mask(volume)
    except ValueError:  # no contrast: the report shows the whole image, as one intensity
        return np.ones(volume.shape, dtype=np.bool_)


def _in_words(case: Case, image: str) -> list[str]:
    lines = []
    for done in case.steps:
        settings = {k: v for k, v in done.step.model_dump().items() if k != "kind" and v is not None}
        found = {**done.learned.get("case", {}), **done.learned.get(image, {})}
        shown = [f"{name} {_short(value)}" for name, value in settings.items()]
        shown += [f"{name} = {_short(value)}" for name, value in found.items()]
        lines.append(f"{done.kind}: {', '.join(shown)}" if shown else done.kind)
    return lines


def _short(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " / ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
