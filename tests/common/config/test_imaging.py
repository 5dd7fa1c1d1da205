from __future__ import annotations

from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from common.config import imaging as config
from common.config.imaging import ImagingStep, step_faults

ADAPTER: TypeAdapter[ImagingStep] = TypeAdapter(ImagingStep)

PLAIN = {
    "to_lps": {},
    "crop_to_roi": {"margin_mm": 5},
    "resample": {"spacing_mm": [1, 1, 0]},
    "round_hu": {},
    "window": {"lower": -150, "upper": 250},
    "resegment": {"n_sigma": 3},
    "zscore": {"over": "body"},
    "n4": {},
    "nyul": {},
    "white_stripe": {},
    "check_range": {},
    "suv_check": {},
    "check_registration": {"reference": "t1"},
    "anisotropy": {},
}


def test_the_table_above_names_every_step():
    kinds = {member.model_fields["kind"].default for member in get_args(get_args(ImagingStep)[0])}
    assert kinds == PLAIN.keys()


@pytest.mark.parametrize("kind", PLAIN)
def test_a_step_is_read_by_its_kind_and_survives_json(kind):
    step = ADAPTER.validate_python({"kind": kind, **PLAIN[kind]})
    assert step.kind == kind
    assert ADAPTER.validate_json(ADAPTER.dump_json(step)) == step


@pytest.mark.parametrize("kind", PLAIN)
def test_unknown_keys_are_refused(kind):
    with pytest.raises(ValidationError, match="Extra inputs"):
        ADAPTER.validate_python({"kind": kind, **PLAIN[kind], "code": "os.system"})


def test_unknown_kinds_are_refused():
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        ADAPTER.validate_python({"kind": "python"})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kind": "window", "lower": 5, "upper": 5}, "must be below"),
        ({"kind": "resegment"}, "give lower, upper or n_sigma"),
        ({"kind": "resegment", "lower": 5, "upper": -5}, "must be below"),
        ({"kind": "resample", "spacing_mm": [1, 1]}, "spacing_mm"),
        ({"kind": "resample", "spacing_mm": [1, 1, -1]}, "greater than or equal to 0"),
        ({"kind": "resample", "spacing_mm": [1, 1, 1], "roi_threshold": 0}, "greater than 0"),
        ({"kind": "nyul", "percentiles": [50, 10]}, "percentiles must rise"),
        ({"kind": "nyul", "percentiles": [-5, 50]}, "must lie in 0 .. 100"),
        ({"kind": "nyul", "percentiles": [1, 99], "landmarks": [0]}, "one landmark a percentile"),
        ({"kind": "nyul", "percentiles": [1, 99], "landmarks": [5, 0]}, "landmarks must rise"),
        ({"kind": "check_registration", "reference": "../t1"}, "pattern"),
    ],
)
def test_impossible_values(values, match):
    with pytest.raises(ValidationError, match=match):
        ADAPTER.validate_python(values)


def faults(modality, *kinds):
    return step_faults([ADAPTER.validate_python({"kind": kind, **PLAIN[kind]}) for kind in kinds], modality=modality)


@pytest.mark.parametrize(
    ("modality", "kinds"),
    [
        ("CT", ("to_lps", "check_range", "resample", "round_hu", "resegment", "window")),
        ("MR", ("n4", "resample", "nyul", "crop_to_roi")),
        ("PET", ("suv_check", "resample", "resegment")),
    ],
)
def test_usual_chains_have_no_faults(modality, kinds):
    assert faults(modality, *kinds) == []


def test_every_fault_is_named():
    found = faults("CT", "suv_check", "zscore", "round_hu", "resegment", "resample")
    assert found == [
        "step 1 (suv_check): is for PET, this image is CT",
        "step 3 (round_hu): comes after zscore, which leaves other units",
        "step 5 (resample): comes after resegment; IBSI resegments on the new grid",
    ]
    assert faults("MR", "nyul", "nyul")[-1] == "steps 1, 2: nyul can be there once"


def test_defaults_are_the_documented_ones():
    assert config.Resample(spacing_mm=(1, 1, 1)).interpolation == "linear"
    assert config.Nyul().percentiles[0] == 1
    assert config.Nyul().percentiles[-1] == 99
