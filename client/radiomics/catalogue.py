"""Every feature that fedrad can compute: name, family, IBSI code, formula reference and unit.

IBSI features carry the tag of the published reference values (``cm_joint_max``, with the aggregation as suffix:
``cm_joint_max_3D_avg``). The pyradiomics preset gives pyradiomics' names; where the formula is the IBSI one, the tag
stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.radiomics.catalogue_tables import IBSI_TABLE, PYRADIOMICS_TABLE

FAMILY_NAMES = {
    "morph": "Morphology",
    "loc": "Local intensity",
    "stat": "Statistics",
    "ih": "Intensity histogram",
    "ivh": "Intensity volume histogram",
    "cm": "Co-occurrence matrix",
    "rlm": "Run length matrix",
    "szm": "Size zone matrix",
    "dzm": "Distance zone matrix",
    "ngt": "Neighbourhood grey tone difference matrix",
    "ngl": "Neighbouring grey level dependence matrix",
}

AGGREGATION_NAMES = {
    "": "",
    "2D_avg": "2D, averaged",
    "2D_comb": "2D, slice-merged",
    "2_5D_avg": "2.5D, direction-merged",
    "2_5D_comb": "2.5D, volume-merged",
    "3D_avg": "3D, averaged",
    "3D_comb": "3D, merged",
    "2D": "2D",
    "2_5D": "2.5D",
    "3D": "3D",
}
"""How the reference values of IBSI 1 call the aggregations, by suffix of the tag."""


@dataclass(frozen=True)
class Feature:
    """One entry.

    Parameters
    ----------
    name : str
        ``cm_joint_max``, or pyradiomics' ``glcm_MaximumProbability``.
    title : str
        What a person calls it.
    family : str
        A value of ``FAMILY_NAMES``.
    ibsi_tag : str
        Tag without aggregation; empty where no IBSI feature has this formula.
    ibsi_code : str
        The four characters of the IBSI reference manual; empty as above.
    reference : str
        Where the formula stands.
    unit : str
        ``I`` stands for the unit of the intensities.
    """

    name: str
    title: str
    family: str
    ibsi_tag: str
    ibsi_code: str
    reference: str
    unit: str

    def unit_of(self, intensity_unit: str) -> str:
        """The unit with that of the intensities in place of ``I``."""
        parts = [intensity_unit + part[1:] if part in {"I", "I2"} else part for part in self.unit.split()]
        return " ".join("1" if part == "12" else part for part in parts if part != "1") or "1"


_PYRADIOMICS_FAMILIES = {
    "shape": "morph",
    "firstorder": "stat",
    "glcm": "cm",
    "gldm": "ngl",
    "glrlm": "rlm",
    "glszm": "szm",
    "ngtdm": "ngt",
}


def _ibsi_features() -> dict[str, Feature]:
    features = {}
    for line in IBSI_TABLE.strip().splitlines():
        left, title = line[:48].split(), line[48:].strip()
        family, key, code, section = left[:4]
        tag, unit = f"{family}_{key}", " ".join(left[4:])
        reference = f"IBSI reference manual, {section}"
        features[tag] = Feature(tag, title, FAMILY_NAMES[family], tag, code, reference, unit)
    return features


def _pyradiomics_features(ibsi: dict[str, Feature]) -> dict[str, Feature]:
    features = {}
    for group, entries in PYRADIOMICS_TABLE.items():
        family = FAMILY_NAMES[_PYRADIOMICS_FAMILIES[group]]
        for entry in entries.split():
            title, _, tag = entry.partition("=")
            title, _, unit = title.partition(":")
            same = ibsi.get(tag)
            features[f"{group}_{title}"] = Feature(
                name=f"{group}_{title}",
                title=title,
                family=family,
                ibsi_tag=tag,
                ibsi_code=same.ibsi_code if same else "",
                reference=same.reference if same else f"pyradiomics 3.0.1 documentation, {group}",
                unit=same.unit if same else unit.replace("_", " "),
            )
    return features


IBSI_FEATURES: dict[str, Feature] = _ibsi_features()
"""The 169 standardised features by tag without aggregation, in the order of the manual."""

PYRADIOMICS_FEATURES: dict[str, Feature] = _pyradiomics_features(IBSI_FEATURES)
"""The 107 features that pyradiomics 3.0.1 enables by default, by ``class_Name``."""


def split_tag(tag: str) -> tuple[str, str]:
    """``cm_joint_max_3D_avg`` -> (``cm_joint_max``, ``3D_avg``); the aggregation is empty for families without one."""
    for suffix in AGGREGATION_NAMES:
        base = tag.removesuffix(f"_{suffix}")
        if suffix and base != tag and base in IBSI_FEATURES:
            return base, suffix
    if tag not in IBSI_FEATURES:
        raise KeyError(f"{tag} is no IBSI tag")
    return tag, ""


def all_features() -> Sequence[Feature]:
    """Every entry of the catalogue."""
    return (*IBSI_FEATURES.values(), *PYRADIOMICS_FEATURES.values())
