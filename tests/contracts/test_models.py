"""The contract of every model, over the whole union."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from common.models import ModelConfig, ModelInputs, initial_parameters
from common.models.interface import Network
from common.models.weights import get_parameters, set_parameters

CONFIGS: list[dict[str, object]] = [
    {"kind": "linear"},
    {"kind": "mlp", "hidden": [6, 5]},
    {"kind": "cnn3d", "channels": [4, 8], "group_size": 4},
    {"kind": "cnn3d", "channels": [4], "group_size": 2, "blocks": 0},
    {"kind": "cnn3d", "channels": [4], "group_size": 4, "blocks": 0, "filters": "scattering", "centred": True},
    {"kind": "fusion", "channels": [4, 8], "group_size": 4},
    {"kind": "fusion", "channels": [4], "group_size": 4, "blocks": 0, "filters": "scattering", "centred": True},
]
STATE_NAMES = {
    "linear": ["head.weight", "head.bias"],
    "mlp": [
        *("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"),
        *("body.3.weight", "body.3.bias", "body.4.weight", "body.4.bias"),
        *("head.weight", "head.bias"),
    ],
    "cnn3d": [
        *("trunk.stages.0.halve.weight", "trunk.stages.0.norm.weight", "trunk.stages.0.norm.bias"),
        *("trunk.stages.0.blocks.0.conv.weight", "trunk.stages.0.blocks.0.norm.weight"),
        *("trunk.stages.0.blocks.0.norm.bias",),
        *("trunk.stages.1.halve.weight", "trunk.stages.1.norm.weight", "trunk.stages.1.norm.bias"),
        *("trunk.stages.1.blocks.0.conv.weight", "trunk.stages.1.blocks.0.norm.weight"),
        *("trunk.stages.1.blocks.0.norm.bias",),
        *("trunk.norm.weight", "trunk.norm.bias", "head.weight", "head.bias"),
    ],
}
STATE_NAMES["fusion"] = [
    *STATE_NAMES["cnn3d"][:-2],
    *("image_head.weight", "image_head.bias", "table_head.weight", "table_head.bias"),
]
INPUTS = ModelInputs(n_channels=2, patch_shape=(8, 9, 10), n_features=5, n_outputs=3)


def validated(config: dict[str, object]) -> Network:
    return TypeAdapter(ModelConfig).validate_python(config)


def built(config: dict[str, object], *, seed: int = 1) -> nn.Module:
    """The model away from its start, where zero weights would hide what is behind them."""
    model = validated(config).build(INPUTS)
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.from_numpy(0.5 * generator.normal(size=tensor.shape)))
    return model


def inputs(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(n, INPUTS.n_channels, *INPUTS.patch_shape)).astype(np.float32)
    image[:, -1] = image[:, -1] > 0
    table = generator.normal(size=(n, INPUTS.n_features)).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(table)


def case_losses(model: nn.Module, image: Tensor, table: Tensor) -> Tensor:
    labels = torch.arange(len(image)) % INPUTS.n_outputs
    return nn.functional.cross_entropy(model(image, table), labels, reduction="none")


def test_every_model_of_the_union_is_under_contract() -> None:
    union = get_args(get_args(ModelConfig)[0])
    assert {type(validated(config)) for config in CONFIGS} == set(union)
    assert {config["kind"] for config in CONFIGS} == set(STATE_NAMES)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
class TestModel:
    def test_gives_a_row_of_logits_a_case(self, config: dict[str, object]) -> None:
        assert built(config)(*inputs(4)).shape == (4, INPUTS.n_outputs)

    def test_no_batch_statistic_and_no_state_beside_parameters(self, config: dict[str, object]) -> None:
        model = built(config)
        forbidden = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
        assert not [name for name, part in model.named_modules() if isinstance(part, forbidden)]
        assert not list(model.buffers())

    def test_gradient_reaches_every_parameter(self, config: dict[str, object]) -> None:
        model = built(config)
        case_losses(model, *inputs(6)).mean().backward()
        silent = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
        ]
        assert silent == []

    @pytest.mark.filterwarnings("ignore:Full backward hook")  # the first layer has no input with a gradient
    def test_per_sample_gradients_equal_batches_of_one(self, config: dict[str, object]) -> None:
        from opacus import GradSampleModule

        model = built(config)
        image, table = inputs(3)
        alone = []
        for i in range(3):
            model.zero_grad()
            label = torch.tensor([i % INPUTS.n_outputs])
            nn.functional.cross_entropy(model(image[i : i + 1], table[i : i + 1]), label).backward()
            alone.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        hooked = GradSampleModule(built(config), loss_reduction="sum", strict=True)
        case_losses(hooked, image, table).sum().backward()
        for name, parameter in hooked._module.named_parameters():
            if not parameter.requires_grad:  # a learned mean
                continue
            expected = torch.stack([gradients[name] for gradients in alone])
            torch.testing.assert_close(parameter.grad_sample, expected, rtol=1e-4, atol=1e-5, msg=name)

    def test_permuted_batch_permutes_the_logits(self, config: dict[str, object]) -> None:
        model, (image, table) = built(config), inputs(5)
        order = torch.tensor([3, 0, 4, 1, 2])
        with torch.no_grad():
            torch.testing.assert_close(model(image[order], table[order]), model(image, table)[order])

    def test_a_case_does_not_see_its_batch(self, config: dict[str, object]) -> None:
        model, (image, table) = built(config), inputs(5)
        with torch.no_grad():
            torch.testing.assert_close(model(image[2:3], table[2:3]), model(image, table)[2:3], rtol=1e-4, atol=1e-5)

    def test_state_names_are_stable(self, config: dict[str, object]) -> None:
        names = list(built(config).state_dict())
        if config.get("blocks") == 0:
            assert [n for n in names if "blocks" in n] == []
        else:
            assert names == STATE_NAMES[str(config["kind"])]

    def test_parameters_come_back_as_they_were(self, config: dict[str, object]) -> None:
        first, second = built(config, seed=1), built(config, seed=2)
        assert get_parameters(first).digest() != get_parameters(second).digest()
        set_parameters(second, get_parameters(first))
        assert get_parameters(second).digest() == get_parameters(first).digest()
        assert all(array.dtype == np.float32 for array in get_parameters(second).values())

    def test_start_depends_on_the_seed_alone(self, config: dict[str, object]) -> None:
        model = validated(config)
        start = initial_parameters(model, INPUTS, 7)
        assert initial_parameters(model, INPUTS, 7).digest() == start.digest()
        assert (initial_parameters(model, INPUTS, 8).digest() == start.digest()) == (config["kind"] == "linear")

    @pytest.mark.parametrize("seed", [0, 7, 2**63 - 5])
    def test_start_is_what_torch_draws(self, config: dict[str, object], seed: int) -> None:
        model = validated(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = get_parameters(model.build(INPUTS))
        assert initial_parameters(model, INPUTS, seed).digest() == drawn.digest()
        assert list(initial_parameters(model, INPUTS, seed)) == list(drawn)

    def test_says_which_input_it_lacks(self, config: dict[str, object]) -> None:
        model, kind = built(config), validated(config)
        image, table = inputs(2)
        for needs, given, name in (
            (kind.needs_image, (None, table), "image"),
            (kind.needs_table, (image, None), "table"),
        ):
            if needs:
                with pytest.raises(TypeError, match=name):
                    model(*given)
            else:
                assert model(*given).shape == (2, INPUTS.n_outputs)

    def test_refuses_to_be_built_without_its_input(self, config: dict[str, object]) -> None:
        model = validated(config)
        if model.needs_image:
            with pytest.raises(ValueError, match="at least 2 channels"):
                model.build(ModelInputs(0, (0, 0, 0), 5, 1))
            with pytest.raises(ValueError, match="voxels a side"):
                model.build(ModelInputs(2, (8, 1, 8), 5, 1))
            with pytest.raises(ValueError, match="voxels a side"):
                model.initial(ModelInputs(2, (8, 1, 8), 5, 1))
        if model.needs_table:
            with pytest.raises(ValueError, match="at least 1 column"):
                model.build(ModelInputs(2, (8, 8, 8), 0, 1))
            with pytest.raises(ValueError, match="at least 1 column"):
                model.initial(ModelInputs(2, (8, 8, 8), 0, 1))

    def test_foreign_parameters_are_refused_by_name(self, config: dict[str, object]) -> None:
        model = built(config)
        wider = validated(config).build(ModelInputs(2, (8, 9, 10), 5, 4))
        with pytest.raises(ValueError, match=r"weight \(4, \d+\), expected .*weight \(3, \d+\)"):
            set_parameters(model, get_parameters(wider))
