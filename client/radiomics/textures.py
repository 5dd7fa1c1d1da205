"""All texture families over all IBSI aggregations (IBSI reference manual 3.6 to 3.11, "Aggregating features").

========== ===================================================================================================
2D_avg     a matrix for each slice and direction; features averaged
2D_comb    a matrix for each slice (directions merged); features averaged
2_5D_avg   a matrix for each direction (slices merged); features averaged
2_5D_comb  one matrix of all in-slice directions and slices
3D_avg     a matrix for each of the 13 directions of the volume; features averaged
3D_comb    one matrix of the 13 directions
2D, 2_5D, 3D   the same for families without directions: averaged over slices, slices merged, volume
========== ===================================================================================================

Slices or directions without any count do not enter an average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from client.radiomics import glcm, gldzm, glrlm, glszm, ngldm, ngtdm
from client.radiomics.discretise import GreyLevels
from client.radiomics.neighbourhood import (
    DIRECTIONS_2D,
    DIRECTIONS_3D,
    Direction,
    Neighbours,
    count_neighbours,
)

Aggregation = Literal["2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb"]
Family = Literal["cm", "rlm", "szm", "dzm", "ngt", "ngl"]
Vector = npt.NDArray[np.float64]
Values = dict[str, float]

FAMILY_FEATURES: dict[Family, tuple[str, ...]] = {
    "cm": glcm.FEATURES,
    "rlm": glrlm.FEATURES,
    "szm": glszm.FEATURES,
    "dzm": gldzm.FEATURES,
    "ngt": ngtdm.FEATURES,
    "ngl": ngldm.FEATURES,
}
DIRECTIONAL: tuple[Family, ...] = ("cm", "rlm")


def family_aggregations(family: Family, aggregations: Sequence[Aggregation]) -> tuple[str, ...]:
    """The aggregations as the family knows them: without directions, ``3D_avg`` and ``3D_comb`` are both ``3D``."""
    if family in DIRECTIONAL:
        return tuple(aggregations)
    return tuple(dict.fromkeys(name.rsplit("_", 1)[0] for name in aggregations))


def texture_features(
    grey: GreyLevels,
    *,
    families: Sequence[Family],
    aggregations: Sequence[Aggregation],
    morphological_roi: npt.NDArray[np.bool_],
) -> Values:
    """Values by IBSI tag (``cm_joint_max_3D_avg``).

    Parameters
    ----------
    grey : GreyLevels
        The discretised intensity ROI.
    morphological_roi : ndarray of bool, shape (D, H, W)
        On the same grid; only distance zones read it.
    """
    values: Values = {}
    dimensions = {name.rsplit("_", 1)[0] for name in aggregations}
    if "3D" in dimensions:
        _volume(values, grey, families, aggregations, morphological_roi)
    if dimensions & {"2D", "2_5D"}:
        _slices(values, grey, families, aggregations, morphological_roi)
    return values


def _volume(
    values: Values,
    grey: GreyLevels,
    families: Sequence[Family],
    aggregations: Sequence[Aggregation],
    roi: npt.NDArray[np.bool_],
) -> None:
    if {"cm", "ngt", "ngl"} & set(families):
        near = count_neighbours(grey, DIRECTIONS_3D)
        if "cm" in families:
            _merged_and_averaged(values, "cm", "3D", aggregations, near.pairs, _pairs(grey))
        _neighbour_families(values, families, near, grey, "3D")
    if "rlm" in families:
        runs = glrlm.run_lengths(grey, DIRECTIONS_3D)
        _merged_and_averaged(values, "rlm", "3D", aggregations, runs, _runs(grey))
    for family, rank, extent, _ in _zones(grey, families, DIRECTIONS_3D, roi):
        vector = glszm.extent_features(rank, extent, grey.levels, n_voxels=grey.n_voxels)
        _put(values, family, "3D", vector)


def _slices(
    values: Values,
    grey: GreyLevels,
    families: Sequence[Family],
    aggregations: Sequence[Aggregation],
    roi: npt.NDArray[np.bool_],
) -> None:
    dimensions = {name.rsplit("_", 1)[0] for name in aggregations}
    numbers = np.flatnonzero(grey.index[1:-1].any(axis=(1, 2)))
    _slice_neighbours(values, grey, families, aggregations, numbers)
    if "rlm" in families:
        every = [glrlm.run_lengths(grey, DIRECTIONS_2D, slice_number=int(z)) for z in numbers]
        _directional_slices(values, "rlm", aggregations, every, _runs(grey))
    for family, rank, extent, slice_number in _zones(grey, families, DIRECTIONS_2D, roi):
        if "2_5D" in dimensions:
            vector = glszm.extent_features(rank, extent, grey.levels, n_voxels=grey.n_voxels)
            _put(values, family, "2_5D", vector)
        if "2D" in dimensions:
            vectors = []
            for z in numbers:
                here = slice_number == z
                n_voxels = int(np.count_nonzero(grey.index[z + 1]))
                vectors.append(glszm.extent_features(rank[here], extent[here], grey.levels, n_voxels=n_voxels))
            _put(values, family, "2D", _mean(vectors))


def _slice_neighbours(
    values: Values,
    grey: GreyLevels,
    families: Sequence[Family],
    aggregations: Sequence[Aggregation],
    numbers: npt.NDArray[np.intp],
) -> None:
    if not {"cm", "ngt", "ngl"} & set(families):
        return
    merged: Neighbours | None = None
    averaged: list[Vector] = []
    combined: list[Vector] = []
    tones: list[Vector] = []
    dependences: list[Vector] = []
    vector = _pairs(grey)
    for z in numbers:
        near = count_neighbours(grey, DIRECTIONS_2D, slice_number=int(z))
        merged = near if merged is None else merged + near
        if "cm" in families and "2D_avg" in aggregations:
            averaged.extend(vector(pairs) for pairs in near.pairs)
        if "cm" in families and "2D_comb" in aggregations:
            combined.append(vector(near.pairs.sum(axis=0)))
        if any(name.startswith("2D") for name in aggregations):
            tones.append(ngtdm.tone_features(near.tone_difference, near.with_neighbours, grey.levels))
            dependences.append(ngldm.dependence_features(near.dependence, grey.levels))
    if averaged:
        _put(values, "cm", "2D_avg", _mean(averaged))
    if combined:
        _put(values, "cm", "2D_comb", _mean(combined))
    if tones and "ngt" in families:
        _put(values, "ngt", "2D", _mean(tones))
    if dependences and "ngl" in families:
        _put(values, "ngl", "2D", _mean(dependences))
    if merged is not None and any(name.startswith("2_5D") for name in aggregations):
        if "cm" in families:
            _merged_and_averaged(values, "cm", "2_5D", aggregations, merged.pairs, vector)
        _neighbour_families(values, families, merged, grey, "2_5D")


def _neighbour_families(
    values: Values, families: Sequence[Family], near: Neighbours, grey: GreyLevels, aggregation: str
) -> None:
    if "ngt" in families:
        vector = ngtdm.tone_features(near.tone_difference, near.with_neighbours, grey.levels)
        _put(values, "ngt", aggregation, vector)
    if "ngl" in families:
        _put(values, "ngl", aggregation, ngldm.dependence_features(near.dependence, grey.levels))


def _directional_slices(
    values: Values,
    family: Family,
    aggregations: Sequence[Aggregation],
    every: Sequence[npt.NDArray[np.int64]],
    vector: Callable[[npt.NDArray[Any]], Vector],
) -> None:
    """Features of matrices of shape (n_directions, n, m), one for each slice."""
    if "2D_avg" in aggregations:
        _put(values, family, "2D_avg", _mean([vector(part) for matrix in every for part in matrix]))
    if "2D_comb" in aggregations:
        _put(values, family, "2D_comb", _mean([vector(matrix.sum(axis=0)) for matrix in every]))
    if any(name.startswith("2_5D") for name in aggregations):
        total = np.sum(every, axis=0)
        _merged_and_averaged(values, family, "2_5D", aggregations, total, vector)


def _merged_and_averaged(
    values: Values,
    family: Family,
    dimension: str,
    aggregations: Sequence[Aggregation],
    matrices: npt.NDArray[np.integer],
    vector: Callable[[npt.NDArray[Any]], Vector],
) -> None:
    if f"{dimension}_avg" in aggregations:
        _put(values, family, f"{dimension}_avg", _mean([vector(matrix) for matrix in matrices]))
    if f"{dimension}_comb" in aggregations:
        _put(values, family, f"{dimension}_comb", vector(matrices.sum(axis=0)))


def _pairs(grey: GreyLevels) -> Callable[[npt.NDArray[Any]], Vector]:
    return lambda pairs: glcm.cooccurrence_features(pairs.astype(np.uint32), grey.levels, grey.n_grey)


def _runs(grey: GreyLevels) -> Callable[[npt.NDArray[Any]], Vector]:
    return lambda runs: glrlm.run_features(runs.astype(np.int64), grey.levels)


def _zones(
    grey: GreyLevels,
    families: Sequence[Family],
    directions: tuple[Direction, ...],
    roi: npt.NDArray[np.bool_],
) -> Iterable[tuple[Family, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rank, extent and slice of all zones, for each zone family that is asked for."""
    if not {"szm", "dzm"} & set(families):
        return
    distances = None
    if "dzm" in families:
        distances = gldzm.border_distances(roi, in_slice=directions == DIRECTIONS_2D)
    zones = glszm.find_zones(grey, directions, distances=distances)
    if "szm" in families:
        yield "szm", zones.rank, zones.size, zones.slice_number
    if "dzm" in families:
        yield "dzm", zones.rank, zones.distance, zones.slice_number


def _mean(vectors: Sequence[Vector]) -> Vector:
    """Mean over the vectors that are defined; all NaN where none is."""
    defined = [vector for vector in vectors if not np.isnan(vector).all()]
    if not defined:
        return vectors[0]
    mean: Vector = np.mean(defined, axis=0)
    return mean


def _put(values: Values, family: Family, aggregation: str, vector: Vector) -> None:
    for name, value in zip(FAMILY_FEATURES[family], vector.tolist(), strict=True):
        values[f"{family}_{name}_{aggregation}"] = value
