"""Optimisers against `torch.optim`, which the program itself does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from client.training.optimisers import Adam, GradientDescent, Optimiser, clip_gradients, gradient_of


def walk(optimiser: Optimiser | torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Twelve steps on a curved valley with a falling rate."""
    for step in range(12):
        for parameter in parameters:
            parameter.grad = None
        x, y = parameters
        loss = ((x - 1) ** 2).sum() + 3 * ((y + 0.5) ** 2).sum() + (x.sum() * y.sum()).cos()
        loss.backward()
        rate = 0.05 / (1 + step)
        if isinstance(optimiser, torch.optim.Optimizer):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step()
        else:
            optimiser.step(rate)


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((3, 2), (4,))]


def test_adam_steps_as_torch_does() -> None:
    own, reference = start(), start()
    walk(Adam(own), own)
    walk(torch.optim.Adam(reference, lr=1.0, foreach=False), reference)
    fused = start()
    walk(torch.optim.Adam(fused, lr=1.0, fused=True), fused)
    for a, b, c in zip(own, reference, fused, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_steps_as_torch_does(momentum: float) -> None:
    own, reference = start(), start()
    walk(GradientDescent(own, momentum=momentum), own)
    walk(torch.optim.SGD(reference, lr=1.0, momentum=momentum), reference)
    for a, b in zip(own, reference, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_clipping_bounds_the_joint_norm_and_keeps_the_direction(largest: float) -> None:
    parameters = start()
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    before = torch.cat([gradient_of(p).flatten() for p in parameters])
    clip_gradients(parameters, largest)
    after = torch.cat([gradient_of(p).flatten() for p in parameters])
    assert float(after.norm()) == pytest.approx(min(largest, float(before.norm())), rel=1e-5)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_clipping_leaves_a_zero_gradient_zero() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    clip_gradients([parameter], 1.0)
    assert torch.equal(gradient_of(parameter), torch.zeros(3))


def test_a_parameter_without_gradient_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"shape \(2, 5\)"):
        Adam([nn.Parameter(torch.zeros(2, 5))]).step(0.1)


def test_training_does_not_import_what_slows_the_start() -> None:
    code = (
        "import sys, numpy as np, torch; from client.training import *; from common.models import *;"
        "from common.tasks import *; i = ModelInputs(2, (8, 8, 8), 3, 1);"
        "d = TrainingData(torch.ones(4, 2, 8, 8, 8), torch.ones(4, 3), torch.tensor([0, 1, 0, 1]));"
        "train(FusionConfig(channels=(8,)).build(i), d, task=ClassificationTask(classes=('a', 'b')),"
        "settings=TrainingConfig(), position=Position(1, 1), generator=np.random.default_rng(0));"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
