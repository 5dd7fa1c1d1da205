"""IBSI 1: every standardised value of the digital phantom and of configurations A, B, C."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.radiomics.catalogue import IBSI_FEATURES, split_tag
from client.radiomics.extractor import feature_names
from client.radiomics.ibsi import Comparison, compare, markdown, within_tolerance
from client.radiomics.settings import preset

EXPECTED = {"digital_phantom": 482, "A": 346, "B": 346, "C": 210}


def test_every_standardised_value_conforms(ibsi_data: Path) -> None:
    comparisons = compare(ibsi_data)
    for configuration, n_expected in EXPECTED.items():
        known = [c for c in comparisons if c.configuration == configuration and c.reference is not None]
        missed = [f"{c.ibsi_tag}: {c.value} vs {c.reference} +- {c.tolerance}" for c in known if not c.conforms]
        assert (len(known), missed) == (n_expected, [])
    _configurations_d_and_e(comparisons)
    page = markdown(comparisons)
    assert "| C | `ibsi-c` | 210 | 210 | 210 |" in page


def _configurations_d_and_e(comparisons: tuple[Comparison, ...]) -> None:
    """D and E share C's grid and morphological ROI; outliers are beyond 3 sigma of the ROI before resegmentation."""
    values = {name: {c.ibsi_tag: c.value for c in comparisons if c.configuration == name} for name in "CDE"}
    form = [tag for tag in values["C"] if tag.startswith("morph_") and tag not in INTENSITY_DEPENDENT]
    for name in "DE":
        assert len(values[name]) == 210
        assert [values[name][tag] for tag in form] == [values["C"][tag] for tag in form]
        assert values[name]["ih_max"] == 32
    # mean -48.9 HU, standard deviation 224 HU of the ROI (C, un-resegmented): the lower limit is near -725 HU
    assert -730 < values["D"]["stat_min"] < values["C"]["stat_min"] * 0.5
    assert values["E"]["stat_max"] <= 400


INTENSITY_DEPENDENT = {"morph_com", "morph_integ_int", "morph_moran_i", "morph_geary_c"}


@pytest.mark.parametrize(
    ("value", "reference", "tolerance", "expected"),
    [
        (0.8124, 0.812, 0, True),
        (0.8126, 0.812, 0, False),
        (-0.35549, -0.355, 0, True),
        (0, 0, 0, True),
        (1204, 1200, 10, True),
    ],
)
def test_three_digits_then_tolerance(value: float, reference: float, tolerance: float, expected: bool) -> None:
    assert within_tolerance(value, reference, tolerance) is expected


def test_presets_name_the_tags_of_the_reference_file() -> None:
    for name, n_expected in [
        ("ibsi-digital", 482),
        ("ibsi-a", 346),
        ("ibsi-b", 346),
        ("ibsi-c", 210),
        ("ibsi-d", 210),
        ("ibsi-e", 210),
    ]:
        tags = feature_names(preset(name))
        assert len(set(tags)) == len(tags) == n_expected
        assert all(split_tag(tag)[0] in IBSI_FEATURES for tag in tags)
