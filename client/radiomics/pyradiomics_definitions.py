"""The features of pyradiomics 3.0.1 by its own names and formulas, from the same counts as the IBSI features.

Where both define a feature alike, the value is taken under its IBSI tag (see the catalogue). Own to pyradiomics are the
bins, kurtosis without subtracting 3, the maximal correlation coefficient, total energy, and the directions that are
left out of an average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.radiomics import glcm, glrlm, glszm, ngldm, ngtdm
from client.radiomics.catalogue import PYRADIOMICS_FEATURES
from client.radiomics.discretise import GreyLevels
from client.radiomics.intensity import intensity_statistics
from client.radiomics.neighbourhood import DIRECTIONS_3D, count_neighbours

GROUP_NAMES = {
    "morph": "shape",
    "stat": "firstorder",
    "cm": "glcm",
    "ngl": "gldm",
    "rlm": "glrlm",
    "szm": "glszm",
    "ngt": "ngtdm",
}

NO_ENTROPY = float(-np.log2(1 + np.spacing(1.0)))
"""pyradiomics adds epsilon to each probability before the logarithm; this is left where there is only one level."""

Vector = npt.NDArray[np.float64]


def names_of(groups: Sequence[str]) -> tuple[str, ...]:
    """Names of the features of some groups, ``class_Name``, in pyradiomics' order."""
    classes = [GROUP_NAMES[group] for group in groups]
    return tuple(name for wanted in classes for name in PYRADIOMICS_FEATURES if name.split("_")[0] == wanted)


def first_order(values: Vector, grey: GreyLevels, *, voxel_volume_mm3: float) -> dict[str, float]:
    """The 18 first-order features of intensities (n_voxels,) and their grey levels."""
    by_tag = {f"stat_{name}": value for name, value in intensity_statistics(values).items()}
    share = grey.counts / grey.n_voxels
    by_tag["ih_entropy"] = float(-(share * np.log2(share)).sum())
    by_tag["ih_uniformity"] = float((share**2).sum())
    own = {
        "firstorder_Kurtosis": by_tag["stat_kurt"] + 3 if by_tag["stat_var"] > 0 else 0.0,
        "firstorder_TotalEnergy": by_tag["stat_energy"] * voxel_volume_mm3,
    }
    return _named("firstorder", by_tag, own)


def textures(grey: GreyLevels, *, groups: Sequence[str]) -> dict[str, float]:
    """GLCM, GLDM, GLRLM, GLSZM and NGTDM features, averaged over the directions of the volume."""
    values: dict[str, float] = {}
    if {"cm", "ngl", "ngt"} & set(groups):
        near = count_neighbours(grey, DIRECTIONS_3D)
        if "cm" in groups:
            values |= _cooccurrence(near.pairs, grey)
        if "ngl" in groups:
            vector = ngldm.dependence_features(near.dependence, grey.levels)
            values |= _named("gldm", _tagged("ngl", ngldm.FEATURES, vector), {})
        if "ngt" in groups:
            vector = ngtdm.tone_features(near.tone_difference, near.with_neighbours, grey.levels)
            values |= _named("ngtdm", _tagged("ngt", ngtdm.FEATURES, vector), {})
    if "rlm" in groups:
        values |= _run_lengths(grey)
    if "szm" in groups:
        zones = glszm.find_zones(grey, DIRECTIONS_3D)
        vector = glszm.extent_features(zones.rank, zones.size, grey.levels, n_voxels=grey.n_voxels)
        values |= _named("glszm", _tagged("szm", glszm.FEATURES, vector), {})
    return values


def _cooccurrence(pairs: npt.NDArray[np.uint32], grey: GreyLevels) -> dict[str, float]:
    counted = [matrix for matrix in pairs if matrix.any()]
    if not counted:
        return dict.fromkeys((name for name in PYRADIOMICS_FEATURES if name.startswith("glcm_")), float("nan"))
    vectors = [glcm.cooccurrence_features(matrix, grey.levels, grey.n_grey) for matrix in counted]
    mcc = float(np.mean([glcm.maximal_correlation(matrix) for matrix in counted]))
    return _named("glcm", _tagged("cm", glcm.FEATURES, np.mean(vectors, axis=0)), {"glcm_MCC": mcc})


def _run_lengths(grey: GreyLevels) -> dict[str, float]:
    matrices = glrlm.run_lengths(grey, DIRECTIONS_3D)
    kept = [
        matrix
        for matrix, direction in zip(matrices, DIRECTIONS_3D, strict=True)
        if matrix[:, 1:].any() or not glrlm.single_lines(grey, direction)
    ]
    if not kept:
        return dict.fromkeys((name for name in PYRADIOMICS_FEATURES if name.startswith("glrlm_")), float("nan"))
    vector: Vector = np.mean([glrlm.run_features(matrix, grey.levels) for matrix in kept], axis=0)
    return _named("glrlm", _tagged("rlm", glrlm.FEATURES, vector), {})


def _tagged(family: str, names: Sequence[str], vector: Vector) -> dict[str, float]:
    return {f"{family}_{name}": value for name, value in zip(names, vector.tolist(), strict=True)}


def _named(group: str, by_tag: dict[str, float], own: dict[str, float]) -> dict[str, float]:
    """Values by pyradiomics' names: under the feature's IBSI tag, or its own."""
    values = {}
    for name, feature in PYRADIOMICS_FEATURES.items():
        if name.startswith(f"{group}_"):
            value = own[name] if name in own else by_tag[feature.ibsi_tag]
            values[name] = NO_ENTROPY if value == 0 and name.endswith("Entropy") else value
    return values
