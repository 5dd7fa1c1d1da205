"""Nyul's histogram standardisation with landmarks that sites learn together (Nyul, Udupa and Zhang 2000,
doi 10.1109/42.836373).

The site's half: each image gives the percentiles of its body (or ROI), mapped linearly so that the first is 0 and the
last 100. They stand in a `FeatureTable`, one column a percentile, like any feature. The merged half: the landmarks are
the means of these columns, asked as sums. The application: a line through each pair of neighbouring landmarks, the
outer ones prolonged. No image and no histogram of one patient leaves a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import StatisticError
from common.statistics.columns import ALL_CASES
from common.statistics.moments import MomentQuery
from common.statistics.procedure import Procedure
from common.tables import FeatureTable

Vector = npt.NDArray[np.float64]

SCALE = (0.0, 100.0)
"""The ends of the standard scale: where the first and the last percentile of every training image are put."""


def landmark_names(image: str, percentiles: Sequence[float]) -> tuple[str, ...]:
    """Names of the columns of one image's percentiles."""
    return tuple(f"{image}_percentile_{p:g}" for p in percentiles)


def image_percentiles(values: npt.NDArray[np.floating], percentiles: Sequence[float]) -> Vector:
    """Percentiles (n_percentiles,) of intensities ``values`` (n_voxels,), interpolated linearly."""
    found: Vector = np.percentile(values.astype(np.float64, copy=False), np.asarray(percentiles))
    return found


def on_scale(found: Vector) -> Vector:
    """An image's percentiles (n_percentiles,) mapped linearly so that the first and last are the ends of `SCALE`.

    Raises
    ------
    StatisticError
        Where both ends are equal: the image is constant between them.
    """
    low, high = float(found[0]), float(found[-1])
    if not high > low:
        raise StatisticError(f"percentiles from {low:g} to {high:g} span no range")
    return SCALE[0] + (found - low) * ((SCALE[1] - SCALE[0]) / (high - low))


def landmark_table(image: str, percentiles: Sequence[float], found: Mapping[str, Vector]) -> FeatureTable:
    """The rows that a site puts under the question: ``found`` gives each case's percentiles, as measured."""
    values = np.array([on_scale(row) for row in found.values()], dtype=np.float64).reshape(-1, len(percentiles))
    return FeatureTable(values, landmark_names(image, percentiles), tuple(found))


def learn_landmarks(image: str, percentiles: Sequence[float]) -> Procedure[tuple[float, ...]]:
    """Landmarks of the standard scale: the means over all cases of all sites, one question.

    Raises
    ------
    StatisticError
        Where no site has a case, or two percentiles have one mean.
    """
    names = landmark_names(image, percentiles)
    sums = yield MomentQuery(names, "all", ALL_CASES, np.zeros((1, len(names))), order=1)
    if not sums["present"].all():
        raise StatisticError(f"no case gave percentiles of image {image}")
    landmarks = sums["power_1"][0] / sums["present"][0]
    if not (np.diff(landmarks) > 0).all():
        raise StatisticError(f"landmarks of image {image} do not rise: {', '.join(f'{x:g}' for x in landmarks)}")
    # where they are put is known; a private answer has noise there too
    return SCALE[0], *(float(x) for x in landmarks[1:-1]), SCALE[1]


def standardise_intensity(
    array: npt.NDArray[np.floating], *, found: Vector, landmarks: Sequence[float]
) -> npt.NDArray[np.floating]:
    """Map an image's own percentiles ``found`` (n_percentiles,) onto the landmarks, piece by piece linearly.

    Percentiles that coincide (many voxels of one value) are taken as one, at the mean of their landmarks. Beyond the
    ends the first and last piece go on.

    Parameters
    ----------
    array : ndarray of float, any shape

    Returns
    -------
    ndarray
        Same shape and dtype.
    """
    knots, place = np.unique(found, return_inverse=True)
    if knots.size < 2:
        raise StatisticError(f"all percentiles are {found[0]:g}: the image is constant between them")
    goals = np.bincount(place, weights=np.asarray(landmarks, dtype=np.float64)) / np.bincount(place)
    slopes = np.diff(goals) / np.diff(knots)
    piece = np.searchsorted(knots[1:-1], array, side="right")
    mapped = goals[piece] + (array - knots[piece]) * slopes[piece]
    return mapped.astype(array.dtype)
