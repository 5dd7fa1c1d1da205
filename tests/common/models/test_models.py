"""Each model against what it should compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from common.arrays import Parameters
from common.models import CnnConfig, FusionConfig, LinearConfig, ModelInputs
from common.models.networks.cnn3d import VARIANCE_FLOOR, pool
from common.models.weights import get_parameters, set_parameters

TABLE_ONLY = ModelInputs(0, (0, 0, 0), 4, 2)


def test_linear_starts_at_zero_and_computes_the_product() -> None:
    model = LinearConfig().build(TABLE_ONLY)
    assert get_parameters(model).norm() == 0
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(2, 4)).astype("f4"), generator.normal(size=2).astype("f4")
    set_parameters(model, Parameters({"head.weight": weight, "head.bias": bias}))
    table = generator.normal(size=(3, 4)).astype("f4")
    np.testing.assert_allclose(
        model(None, torch.from_numpy(table)).detach().numpy(), table @ weight.T + bias, rtol=1e-5, atol=1e-6
    )


def test_pool_equals_numpy_over_the_roi() -> None:
    generator = np.random.default_rng(1)
    maps = generator.normal(size=(2, 3, 4, 5, 6))
    roi = generator.random((2, 1, 4, 5, 6)) > 0.5
    found = pool(torch.from_numpy(maps), torch.from_numpy(roi.astype(np.float64))).numpy()
    for case in range(2):
        inside = [maps[case, channel][roi[case, 0]] for channel in range(3)]
        expected = [
            *(values.mean() for values in inside),
            *(np.sqrt(values.var() + VARIANCE_FLOOR) for values in inside),
            *(maps[case, channel].max() for channel in range(3)),
        ]
        np.testing.assert_allclose(found[case], expected, rtol=1e-6)


def test_pool_of_an_empty_roi_is_finite_with_finite_gradient() -> None:
    maps = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    pooled = pool(maps, torch.zeros(1, 1, 3, 3, 3))
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


def test_pool_sees_heterogeneity_that_a_mean_forgets() -> None:
    even = torch.zeros(1, 1, 4, 4, 4)
    uneven = torch.ones(1, 1, 4, 4, 4)
    uneven.view(-1)[::2] = -1
    roi = torch.ones(1, 1, 4, 4, 4)
    a, b = pool(even, roi)[0], pool(uneven, roi)[0]
    assert float(a[0]) == float(b[0])
    assert float(b[1]) > 10 * float(a[1])


def test_fusion_is_the_sum_of_its_parts() -> None:
    inputs = ModelInputs(2, (8, 8, 8), 4, 2)
    torch.manual_seed(3)
    fusion = FusionConfig(channels=(4, 8), group_size=4).build(inputs)
    cnn = CnnConfig(channels=(4, 8), group_size=4).build(inputs)
    linear = LinearConfig().build(inputs)
    state = {k: np.random.default_rng(4).normal(size=v.shape).astype("f4") for k, v in get_parameters(fusion).items()}
    set_parameters(fusion, Parameters(state))
    trunk = {k: v for k, v in state.items() if k.startswith("trunk")}
    set_parameters(
        cnn, Parameters({**trunk, "head.weight": state["image_head.weight"], "head.bias": state["image_head.bias"]})
    )
    set_parameters(
        linear, Parameters({"head.weight": state["table_head.weight"], "head.bias": state["table_head.bias"]})
    )
    image, table = torch.randn(3, 2, 8, 8, 8), torch.randn(3, 4)
    image[:, -1] = (image[:, -1] > 0).float()
    torch.testing.assert_close(fusion(image, table), cnn(image, None) + linear(None, table))


@pytest.mark.parametrize("config", [CnnConfig, FusionConfig])
def test_channels_that_groups_do_not_divide_are_refused(config: type[CnnConfig] | type[FusionConfig]) -> None:
    with pytest.raises(ValidationError, match="no multiples of group_size 8"):
        config(channels=(8, 12))


def test_inputs_refuse_negative_shapes_and_no_outputs() -> None:
    with pytest.raises(ValueError, match="negative"):
        ModelInputs(-1, (0, 0, 0), 1, 1)
    with pytest.raises(ValueError, match="at least one output"):
        ModelInputs(0, (0, 0, 0), 1, 0)


def test_parameters_in_another_order_are_refused() -> None:
    model = LinearConfig().build(TABLE_ONLY)
    turned = dict(reversed(list(get_parameters(model).items())))
    with pytest.raises(ValueError, match=r"head\.bias .*, expected head\.weight"):
        set_parameters(model, Parameters(turned))
    with pytest.raises(ValueError, match="1 arrays, expected 2"):
        set_parameters(model, Parameters({"head.weight": get_parameters(model)["head.weight"]}))
