"""Filters on updates: each takes off what it says, keeps the layout, and never lengthens an update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.approval_text import explain_study
from client.governance import Gate
from client.outbound import MEANS, centring_faults, filtered, largest, to_bfloat16, to_decimals
from common.arrays import Parameters
from common.config.gate import GateConfig, OutboundConfig
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import GateError
from common.messages import Prepare
from common.models import CnnConfig, ModelInputs
from tests.client.cases import STUDY, study

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def update(weight: np.ndarray, bias: float = 0.25) -> Parameters:
    return Parameters({"head.weight": weight.astype(np.float32), "head.bias": np.array(bias, dtype=np.float32)})


def test_without_settings_nothing_changes():
    delta = update(np.array([0.1, -2.0, 3e-9]))
    assert filtered(delta, OutboundConfig(), model="m").digest() == delta.digest()


@given(arrays(np.float32, st.integers(1, 40), elements=FLOATS), st.floats(1e-3, 1e3), st.integers(0, 6), st.booleans())
def test_the_norm_bound_holds_whatever_else_is_asked_for(weight: np.ndarray, norm: float, decimals: int, coarse: bool):
    config = OutboundConfig(clip_norm=norm, decimals=decimals, bfloat16=coarse)
    found = filtered(update(weight), config, model="m")
    assert found.layout == update(weight).layout
    assert found.norm() <= norm * (1 + 1e-6)


def test_a_short_update_is_not_scaled():
    delta = update(np.array([0.3, -0.4]), 0.0)
    assert filtered(delta, OutboundConfig(clip_norm=0.6), model="m").digest() == delta.digest()


def test_dropped_arrays_leave_as_zeros_for_the_named_model_alone():
    delta = update(np.array([1.0, 2.0]))
    config = OutboundConfig(drop=("m/head.w*",))
    found = filtered(delta, config, model="m")
    assert found["head.weight"].tolist() == [0, 0]
    assert found["head.bias"] == np.float32(0.25)
    assert filtered(delta, config, model="other").digest() == delta.digest()
    assert filtered(delta, OutboundConfig(drop=("*/*",)), model="other").norm() == 0


def test_a_misspelt_array_is_refused_rather_than_let_out():
    with pytest.raises(GateError, match=r"conv1 names no array of model m, which has head\.weight, head\.bias"):
        filtered(update(np.zeros(1)), OutboundConfig(drop=("m/conv1",)), model="m")


@given(arrays(np.float64, st.integers(0, 60), elements=st.floats(-10, 10)), st.floats(0.01, 0.99))
def test_the_largest_values_are_kept(values: np.ndarray, share: float):
    kept = largest(values, share=share)
    n = min(max(1, int(np.ceil(share * values.size))), values.size)
    assert sorted(np.abs(kept[kept != 0])) == sorted(v for v in np.sort(np.abs(values))[::-1][:n] if v)
    assert (kept[kept != 0] == values[kept != 0]).all()


def test_decimals_and_bfloat16_by_hand():
    values = np.array([1.23456, -1.23456, 0.00009, -0.00009, 0.0])
    assert to_decimals(values, decimals=3).tolist() == [1.234, -1.234, 0.0, 0.0, 0.0]
    # 1.00390625 = 1 + 2**-8 has nine significant bits: the ninth is cut off
    assert to_bfloat16(np.array([1.00390625, -1.0078125, 3.0], dtype=np.float32)).tolist() == [1.0, -1.0078125, 3.0]


@given(arrays(np.float32, st.integers(1, 40), elements=FLOATS))
def test_what_bfloat16_leaves_is_a_bfloat16_of_torch(values: np.ndarray):
    cut = to_bfloat16(values)
    assert (torch.from_numpy(cut).to(torch.bfloat16).to(torch.float32).numpy() == cut).all()
    assert (np.abs(cut) <= np.abs(values)).all()
    assert (np.abs(values - cut) <= np.abs(values) * 2**-7).all()


CENTRED_MODEL = """
[[models]]
name = "image"
rounds = 2
model = { kind = "cnn3d", channels = [4], group_size = 4, centred = true }
training = {}
"""


def centred_study() -> StudyConfig:
    return study(STUDY + CENTRED_MODEL)


@pytest.mark.parametrize(
    ("updates", "named"),
    [
        ({"clip_norm": 1.0}, "gate.updates.clip_norm"),
        ({"keep_share": 0.5}, "gate.updates.keep_share"),
        ({"drop": ("image/trunk.*",)}, "gate.updates.drop"),
        ({"clip_norm": 1.0, "drop": ("*/*",)}, "gate.updates.drop, gate.updates.clip_norm"),
    ],
)
def test_filters_that_would_spoil_the_means_of_a_centred_model_are_refused(
    updates: dict[str, object], named: str, tmp_path: Path
):
    """At the first request, before any case is read; and it is said where the study is approved."""
    asked = centred_study()
    rules = GateConfig(updates=OutboundConfig(**updates))  # type: ignore[arg-type]
    site = SiteConfig(
        site="north",
        manifest=tmp_path / "c.csv",
        data=tmp_path,
        state=tmp_path / "state",
        studies=(tmp_path / "s",),
        gate=rules,
    )
    reason = f"model image is centred: {named} would spoil the means of its first round"
    with pytest.raises(GateError) as caught:
        Gate(site, [asked]).admit(Prepare(digest(asked)))
    assert str(caught.value) == f"study lung: {reason}"
    protection = explain_study(asked, site)[-1].sentences
    assert any(reason in sentence for sentence in protection)


def test_filters_that_leave_the_means_alone_are_not_refused():
    kept = OutboundConfig(drop=("image/head.*", "radiomics/*"), decimals=6, bfloat16=True)
    assert list(centring_faults(centred_study(), kept)) == []
    assert list(centring_faults(study(), OutboundConfig(clip_norm=1.0, keep_share=0.1, drop=("*/*",)))) == []


def test_the_means_are_the_array_that_a_centred_model_has():
    names = [array.name for array in CnnConfig(centred=True).initial(ModelInputs(2, (8, 8, 8), 0, 1))]
    assert names.count(MEANS) == 1
