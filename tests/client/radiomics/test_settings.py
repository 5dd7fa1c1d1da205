"""Presets: read once, refused with every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.radiomics.settings import RadiomicsSettings, preset, preset_names, read_settings
from common.errors import ConfigError

REQUIRED = {
    "ibsi-digital",
    "ibsi-a",
    "ibsi-b",
    "ibsi-c",
    "ibsi-d",
    "ibsi-e",
    "ct-lung",
    "mr-brain",
    "pet",
    "fast",
    "pyradiomics",
}


def test_presets_are_there_and_carry_their_file_name() -> None:
    assert set(preset_names()) >= REQUIRED
    for name in preset_names():
        assert preset(name).name == name


def test_spacing_is_turned_once() -> None:
    resampling = preset("ibsi-b").resampling
    assert resampling is not None
    assert resampling.spacing_mm == (2, 2, 0)
    assert resampling.spacing_dhw_mm == (0, 2, 2)


def test_digest_follows_the_numbers_not_the_name() -> None:
    fast = preset("fast")
    assert fast.digest == fast.model_copy(update={"name": "other"}).digest
    assert len({preset(name).digest for name in preset_names()}) == len(preset_names())


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\ndefinitions = "own"\nintensity_unit = "HU"\nround_intensities = true\nbinwidth = 3\n'
                    'groups = ["cm"]\ndiscretisation = { kind = "bin_width", bin_width = -1.0 }\n')  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 3
    assert all(word in text for word in ("definitions", "binwidth", "bin_width"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregations": ()}, "texture groups need aggregations"),
        ({"filters": ({"kind": "gradient"},)}, "filtered_discretisation"),
        ({"definitions": "pyradiomics", "groups": ("dzm",)}, "groups"),
        ({"definitions": "pyradiomics", "groups": ("cm",), "round_intensities": True}, "no rounding"),
        ({"definitions": "pyradiomics", "groups": ("cm",), "aggregations": ("2D_avg",)}, "3D_avg"),
        ({"groups": ("cm", "cm")}, "once"),
        ({"resegmentation": {"lower": 3.0, "upper": 1.0}}, "lower < upper"),
        ({"resegmentation": {}}, "needs lower, upper or n_sigma"),
        ({"resampling": {"spacing_mm": (1.0, 1.0, -1.0), "interpolation": "linear"}}, "0 to 1000"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    fields = preset("fast").model_dump() | change
    with pytest.raises(ValueError, match=message):
        RadiomicsSettings.model_validate(fields)


def test_unknown_preset_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ct-lung"):
        preset("lung")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not TOML"):
        read_settings(tmp_path / "broken.toml")
