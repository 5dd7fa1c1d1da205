"""The catalogue: no feature without name, family, code, formula and unit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from client.radiomics.catalogue import (
    AGGREGATION_NAMES,
    FAMILY_NAMES,
    IBSI_FEATURES,
    PYRADIOMICS_FEATURES,
    all_features,
    split_tag,
)
from client.radiomics.columns import descriptions
from client.radiomics.extractor import extract, feature_names
from client.radiomics.settings import preset, preset_names
from tests.client.radiomics.conftest import scene


@pytest.mark.parametrize("name", preset_names())
def test_every_feature_of_every_preset_has_an_entry(name: str) -> None:
    for entry in descriptions(preset(name)):
        assert entry.feature
        assert entry.unit
        assert entry.aggregation in AGGREGATION_NAMES.values()
        if entry.ibsi_tag:
            assert split_tag(entry.ibsi_tag)[0] in IBSI_FEATURES


def test_entries_are_complete() -> None:
    assert (len(IBSI_FEATURES), len(PYRADIOMICS_FEATURES)) == (169, 107)
    for feature in all_features():
        assert feature.title
        assert feature.reference
        assert feature.unit
        assert feature.family in FAMILY_NAMES.values()
        assert bool(feature.ibsi_tag) == bool(feature.ibsi_code)
        assert not feature.ibsi_tag or feature.ibsi_tag in IBSI_FEATURES
    for feature in IBSI_FEATURES.values():
        assert len(feature.ibsi_code) == 4


def test_codes_and_titles_are_those_of_the_reference_file(ibsi_data: Path) -> None:
    with (ibsi_data / "ibsi1_reference_values.csv").open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["config"] == "digital_phantom" and line["value"]]
    seen = set()
    for line in lines:
        base, suffix = split_tag(line["ibsi_tag"])
        seen.add(base)
        assert AGGREGATION_NAMES[suffix] == line["aggregation"]
        assert IBSI_FEATURES[base].title == line["feature"]
        # the file repeats the code of the neighbouring line for two percentiles of the histogram
        if line["ibsi_code"] and base not in {"ih_p10", "ih_p90"}:
            assert IBSI_FEATURES[base].ibsi_code == line["ibsi_code"]
    assert seen == set(IBSI_FEATURES)


def test_pyradiomics_names_map_as_in_the_shared_table(ibsi_data: Path) -> None:
    groups = {
        "RadiomicsGLCM": "glcm",
        "RadiomicsGLRLM": "glrlm",
        "RadiomicsGLSZM": "glszm",
        "RadiomicsNGTDM": "ngtdm",
        "RadiomicsGLDM": "gldm",
    }
    with (ibsi_data / "pyradiomics_to_ibsi.csv").open(encoding="utf-8") as file:
        table = {
            (groups.get(line["pyradiomics_class"], line["pyradiomics_class"]), line["pyradiomics_feature"]): set()
            for line in csv.DictReader(file)
        }
        file.seek(0)
        for line in csv.DictReader(file):
            table[groups.get(line["pyradiomics_class"], line["pyradiomics_class"]), line["pyradiomics_feature"]].add(
                line["ibsi_tag"]
            )
    for name, feature in PYRADIOMICS_FEATURES.items():
        group, _, title = name.partition("_")
        if feature.ibsi_tag:
            assert feature.ibsi_tag in table[group, title], name


def test_names_known_before_extraction_are_those_after() -> None:
    image, roi = scene()
    for name in ("fast", "ct-lung", "pyradiomics-original", "pet"):
        entries = extract(image, roi, preset(name), case_id="case")
        assert tuple(entry.column for entry in entries) == feature_names(preset(name))


def test_units() -> None:
    units = {entry.column: entry.unit for entry in descriptions(preset("ibsi-c"))}
    assert (
        units["stat_mean"],
        units["stat_var"],
        units["morph_integ_int"],
        units["morph_volume"],
        units["cm_corr_3D_avg"],
    ) == ("HU", "HU2", "HU mm3", "mm3", "1")
    units = {entry.column: entry.unit for entry in descriptions(preset("fast"))}
    assert (units["stat_mean"], units["stat_var"], units["morph_volume"]) == ("1", "1", "mm3")
