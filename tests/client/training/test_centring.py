"""The first round of a centred model: the mean of the features, exact or noised, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from client.training.centring import LARGEST_RMS, learn_centre, learn_centre_private
from client.training.dp_sgd import Mechanism
from client.training.loop import TrainingData
from common.errors import StatisticError
from common.models import CnnConfig, LinearConfig, ModelInputs
from common.models.networks.centre import centre_of
from common.models.weights import get_parameters
from common.privacy.ledger import GAUSSIAN
from common.rng import SystemNoise
from common.tasks import ClassificationTask

TASK = ClassificationTask(classes=("no", "yes"))
INPUTS = ModelInputs(2, (8, 8, 8), 0, 1)
CONFIG = CnnConfig(channels=(4,), group_size=4, blocks=0, filters="scattering", centred=True)
LITTLE_NOISE = Mechanism(1e-9, clipping_norm=1.0, sampling_rate=0.1, steps_per_epoch=10, local_epochs=2)


def cohort(n: int = 70) -> TrainingData:
    rng = np.random.default_rng(3)
    images = rng.normal(0.5, 0.1, size=(n, 2, 8, 8, 8)).astype(np.float32)
    images[:, 1] = rng.random((n, 8, 8, 8)) > 0.5
    return TrainingData(torch.from_numpy(images), None, torch.arange(n) % 2)


def built() -> nn.Module:
    torch.manual_seed(1)
    return CONFIG.build(INPUTS)


def features(module: nn.Module, data: TrainingData) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.trunk(data.images)  # type: ignore[operator,union-attr]
    return found


def test_the_centre_is_the_mean_so_that_centred_features_have_none():
    module, data = built(), cohort()
    before = get_parameters(module)
    expected = features(module, data).mean(dim=0)
    result = learn_centre(module, data, task=TASK)
    torch.testing.assert_close(centre_of(module).mean.detach(), expected, rtol=1e-4, atol=1e-5)
    assert float(features(module, data).mean(dim=0).abs().max()) < 1e-4
    assert result.train_loss == pytest.approx([np.log(2)])  # the head starts at zero
    changed = [name for name, array in get_parameters(module).items() if not np.array_equal(array, before[name])]
    assert changed == ["trunk.centre.mean"]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("inside", [0.0, 0.01, 0.5, 1.0])
def test_no_feature_is_larger_than_the_model_says(level: float, inside: float):
    """Flat, faint and harsh patches within the window; no ROI, a few voxels, all of them."""
    rng = np.random.default_rng(7)
    images = np.clip(level + rng.choice([-1.0, 0.0, 1e-4, 1.0], size=(40, 2, 8, 8, 8)), 0, 1).astype(np.float32)
    images[:, 1] = rng.random((40, 8, 8, 8)) < inside
    images[:4, 0] = level
    found = features(built(), TrainingData(torch.from_numpy(images), None, torch.arange(40) % 2))
    assert float(found.abs().max()) <= CONFIG.largest_feature


def test_means_of_two_sites_average_to_that_of_both():
    data = cohort()
    parts = [TrainingData(data.images[rows], None, data.targets[rows]) for rows in (slice(0, 20), slice(20, 70))]  # type: ignore[index]
    means = []
    for part in (*parts, data):
        module = built()
        learn_centre(module, part, task=TASK)
        means.append(centre_of(module).mean.detach())
    torch.testing.assert_close((20 * means[0] + 50 * means[1]) / 70, means[2], rtol=1e-4, atol=1e-5)


def test_with_hardly_noise_the_private_mean_is_the_exact_one():
    data, exact, private = cohort(), built(), built()
    expected = learn_centre(exact, data, task=TASK)
    found = learn_centre_private(private, data, task=TASK, mechanism=LITTLE_NOISE, source=SystemNoise(bytes(32)))
    own = features(built(), data).square().mean(dim=1).sqrt()
    assert float(own.max()) < LARGEST_RMS  # nothing is clipped
    torch.testing.assert_close(centre_of(private).mean, centre_of(exact).mean, rtol=1e-4, atol=1e-4)
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
    assert all(parameter.grad is None for parameter in private.parameters())


def test_noise_is_that_of_one_release_about_all_cases():
    data = cohort()
    mechanism = Mechanism(40.0, clipping_norm=1.0, sampling_rate=0.1, steps_per_epoch=10, local_epochs=2)
    assert mechanism.once.event.mechanism == GAUSSIAN
    assert (mechanism.once.event.steps, mechanism.once.event.noise_multiplier) == (1, 40.0)
    exact = built()
    learn_centre(exact, data, task=TASK)
    n = centre_of(exact).mean.numel()
    errors = []
    for number in range(60):
        module = built()
        key = SystemNoise(number.to_bytes(32, "big"))
        learn_centre_private(module, data, task=TASK, mechanism=mechanism, source=key)
        errors.append((centre_of(module).mean - centre_of(exact).mean).numpy())
    assert np.std(errors) == pytest.approx(40.0 * LARGEST_RMS * np.sqrt(n) / data.n_cases, rel=0.06)


def test_a_model_without_a_centre_is_refused():
    with pytest.raises(ValueError, match="one centre, got 0"):
        learn_centre(LinearConfig().build(ModelInputs(0, (0, 0, 0), 2, 1)), cohort(), task=TASK)


def test_features_that_are_no_numbers_are_refused_where_that_tells_nobody_of_them():
    module, data = built(), cohort(8)
    assert data.images is not None
    data.images[3, 0] = float("nan")
    with pytest.raises(StatisticError, match="finite"):
        learn_centre(module, data, task=TASK)
    learn_centre_private(module, data, task=TASK, mechanism=LITTLE_NOISE, source=SystemNoise())
    assert torch.isfinite(centre_of(module).mean).all()
