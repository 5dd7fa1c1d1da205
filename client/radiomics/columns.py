"""What a preset gives, known before any image is read: the columns, each with tag, aggregation and unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from client.radiomics import filters, pyradiomics_definitions, textures
from client.radiomics.catalogue import AGGREGATION_NAMES, IBSI_FEATURES, PYRADIOMICS_FEATURES, split_tag
from client.radiomics.settings import RadiomicsSettings

ORIGINAL = "original"


@dataclass(frozen=True)
class FeatureValue:
    """One feature of one case.

    Parameters
    ----------
    feature : str
        Name without aggregation: ``cm_joint_max``, ``wavelet-LLH_cm_joint_max``, ``original_glcm_JointEntropy``.
    ibsi_tag : str
        As in the reference values; empty where IBSI 1 has no such feature (filtered images, pyradiomics' own).
    aggregation : str
        In the words of the reference values; empty where nothing is aggregated.
    value : float
        Finite.
    unit : str
        "1" where there is none.
    column : str
        The name, unique in the preset, under which the value stands in a `FeatureTable`.
    """

    feature: str
    ibsi_tag: str
    aggregation: str
    value: float
    unit: str
    column: str


def feature_names(settings: RadiomicsSettings) -> tuple[str, ...]:
    """The columns that a preset gives, in order; known before any image is read."""
    if settings.definitions == "pyradiomics":
        groups = [group for group in settings.groups if group != "morph"]
        shape = pyradiomics_definitions.names_of(["morph"]) if "morph" in settings.groups else ()
        names = [f"{ORIGINAL}_{name}" for name in shape]
        for image in image_names(settings):
            names += [f"{image}_{name}" for name in pyradiomics_definitions.names_of(groups)]
        return tuple(names)
    names = list(_ibsi_tags(settings, filtered=False))
    for image in image_names(settings)[1:]:
        names += [f"{image}_{tag}" for tag in _ibsi_tags(settings, filtered=True)]
    return tuple(names)


def image_names(settings: RadiomicsSettings) -> tuple[str, ...]:
    """``original`` and the filtered images."""
    return (ORIGINAL, *(name for chosen in settings.filters for name in filters.filter_names(chosen)))


def _ibsi_tags(settings: RadiomicsSettings, *, filtered: bool) -> tuple[str, ...]:
    """Tags of the standardised features of the groups; of filtered images without form, pairs and volume histogram."""
    spatial_tags = ("morph_moran_i", "morph_geary_c")
    tags: list[str] = []
    families: dict[str, textures.Family] = {family: family for family in textures.FAMILY_FEATURES}
    for group in settings.groups:
        if filtered and group in {"morph", "spatial", "loc", "ivh"}:
            continue
        if group == "spatial":
            tags += spatial_tags
        elif group in families:
            suffixes = textures.family_aggregations(families[group], settings.aggregations)
            features = textures.FAMILY_FEATURES[families[group]]
            tags += [f"{group}_{name}_{suffix}" for suffix in suffixes for name in features]
        else:
            tags += [tag for tag in IBSI_FEATURES if tag.startswith(f"{group}_") and tag not in spatial_tags]
    return tuple(tags)


@cache
def descriptions(settings: RadiomicsSettings) -> tuple[FeatureValue, ...]:
    """An entry for each column of a preset, still without value."""
    describe = _describe_pyradiomics if settings.definitions == "pyradiomics" else _describe_ibsi
    return tuple(describe(column, settings) for column in feature_names(settings))


def _describe_pyradiomics(column: str, settings: RadiomicsSettings) -> FeatureValue:
    image, _, name = column.partition("_")
    feature = PYRADIOMICS_FEATURES[name]
    suffix = "" if name.startswith(("shape", "firstorder")) else _pyradiomics_suffix(name)
    tag = f"{feature.ibsi_tag}_{suffix}".rstrip("_") if feature.ibsi_tag and image == ORIGINAL else ""
    unit = feature.unit_of(settings.intensity_unit)
    return FeatureValue(column, tag, AGGREGATION_NAMES[suffix], math.nan, unit, column)


def _describe_ibsi(column: str, settings: RadiomicsSettings) -> FeatureValue:
    image = next((name for name in image_names(settings)[1:] if column.startswith(f"{name}_")), "")
    base, suffix = split_tag(column.removeprefix(f"{image}_") if image else column)
    unit = IBSI_FEATURES[base].unit_of("1" if image else settings.intensity_unit)
    name = f"{image}_{base}" if image else base
    return FeatureValue(name, "" if image else column, AGGREGATION_NAMES[suffix], math.nan, unit, column)


def _pyradiomics_suffix(name: str) -> str:
    return "3D_avg" if name.startswith(("glcm", "glrlm")) else "3D"
