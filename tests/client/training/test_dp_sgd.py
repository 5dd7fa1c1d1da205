"""DP-SGD: the sum of the cases' bounded gradients, noise of the size that was paid for, and nothing beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from client.training.dp_sgd import (
    CASES_AT_ONCE,
    LOSS_CEILING,
    LOSS_SHARE,
    Mechanism,
    NoisedSums,
    case_gradients,
    poisson_sample,
    require_separable,
    train_private,
)
from client.training.loop import Position, TrainingData, TrainingResult, train
from common.errors import PrivacyError
from common.models import CnnConfig, FusionConfig, LinearConfig, MlpConfig, ModelInputs
from common.models.networks.centre import trained_parameters
from common.privacy.ledger import GAUSSIAN, SAMPLED_GAUSSIAN
from common.rng import SystemNoise, generator
from common.tasks import ClassificationTask, RegressionTask, SurvivalTask, TrainingConfig

KEY = bytes(range(32))
TASK = ClassificationTask(classes=("no", "yes"))
INPUTS = ModelInputs(2, (8, 8, 8), 3, 1)
MODELS = {
    "linear": LinearConfig(),
    "mlp": MlpConfig(hidden=(4,)),
    "cnn3d": CnnConfig(channels=(8,)),
    "filtered": CnnConfig(channels=(8,), blocks=0, filters="scattering", centred=True),
    "fusion": FusionConfig(channels=(8,)),
}
PLAIN = TrainingConfig(optimiser="sgd", learning_rate=0.5, schedule="constant", batch_size=64)
ONE = Position(1, 1)
LITTLE_NOISE = Mechanism(noise_multiplier=1e-9, clipping_norm=1e3, sampling_rate=1.0, steps_per_epoch=1, local_epochs=3)


def cohort(n: int = 10, seed: int = 3) -> TrainingData:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, 2, 8, 8, 8)).astype(np.float32)
    images[:, 1] = images[:, 1] > 0
    table = rng.normal(size=(n, 3)).astype(np.float32)
    return TrainingData(torch.from_numpy(images), torch.from_numpy(table), torch.arange(n) % 2)


def built(kind: str) -> nn.Module:
    torch.manual_seed(1)
    module = MODELS[kind].build(INPUTS)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # a model whose head is zero has silent layers
    return module


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def run(
    module: nn.Module,
    data: TrainingData,
    mechanism: Mechanism,
    settings: TrainingConfig = PLAIN,
    *,
    key: bytes | None = KEY,
    task: ClassificationTask = TASK,
) -> TrainingResult:
    return train_private(
        module, data, task=task, settings=settings, position=ONE, mechanism=mechanism, source=SystemNoise(key)
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_gradients_of_single_cases_are_those_of_opacus(kind: str):
    from opacus import GradSampleModule

    data, module = cohort(4), built(kind)
    found, losses = case_gradients(module, TASK)(data.images, data.table, data.targets)
    hooked = GradSampleModule(built(kind), loss_reduction="sum", strict=True)
    expected = TASK.loss(hooked(data.images, data.table), data.targets)
    expected.sum().backward()
    torch.testing.assert_close(losses, expected.detach())
    for own, parameter in zip(found, trained_parameters(hooked._module), strict=True):
        torch.testing.assert_close(own, parameter.grad_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_all_cases_without_a_bound_and_hardly_noise_is_plain_descent(kind: str):
    private, plain, data = built(kind), built(kind), cohort()
    settings = PLAIN.model_copy(update={"l2": 0.1, "local_epochs": 3, "learning_rate": 0.02})
    result = run(private, data, LITTLE_NOISE, settings)
    draws = generator(0, "unused")
    expected = train(plain, data, task=TASK, settings=settings, position=ONE, generator=draws)
    torch.testing.assert_close(flat(private), flat(plain), rtol=1e-3, atol=1e-4)
    assert result.train_loss == pytest.approx(expected.train_loss, rel=1e-3)


def test_a_penalty_on_the_weights_is_that_of_the_plain_loop():
    private, plain, data = built("linear"), built("linear"), cohort()

    def penalty(module: nn.Module) -> torch.Tensor:
        return 0.7 * flat_with_gradient(module).square().sum()

    def flat_with_gradient(module: nn.Module) -> torch.Tensor:
        return torch.cat([parameter.flatten() for parameter in module.parameters()])

    train_private(
        private, data, task=TASK, settings=PLAIN, position=ONE, mechanism=LITTLE_NOISE, source=SystemNoise(KEY),
        penalty=penalty,
    )  # fmt: skip
    settings = PLAIN.model_copy(update={"local_epochs": 3})
    train(plain, data, task=TASK, settings=settings, position=ONE, generator=generator(0, "unused"), penalty=penalty)
    torch.testing.assert_close(flat(private), flat(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("norm", [0.01, 1.0, 100.0])
def test_one_case_more_moves_the_sum_by_no_more_than_the_clipping_norm(kind: str, norm: float):
    module, data = built(kind), cohort(CASES_AT_ONCE // 8)
    mechanism = replace(LITTLE_NOISE, clipping_norm=norm)
    gradients, losses = case_gradients(module, TASK)(data.images, data.table, data.targets)
    sums = []
    for n in range(data.n_cases + 1):
        own = NoisedSums(trained_parameters(module), mechanism, data.n_cases, SystemNoise(KEY))
        own.add([gradient[:n] for gradient in gradients], losses[:n])
        sums.append(own._total)
    steps = np.linalg.norm(np.diff(sums, axis=0), axis=1)
    assert (steps <= norm).all()
    norms = torch.linalg.vector_norm(torch.cat([g.flatten(1) for g in gradients], dim=1), dim=1)
    if norm < float(norms.min()):
        assert (steps >= norm * math.sqrt(1 - LOSS_SHARE**2) * 0.99).all()


def test_noise_has_the_size_that_was_paid_for():
    """A table of zeros has no gradient but the bias's: the weights move by noise alone."""
    n, wide = 40, ModelInputs(0, (0, 0, 0), 4000, 1)
    data = TrainingData(None, torch.zeros(n, 4000), torch.arange(n) % 2)
    mechanism = Mechanism(2.0, clipping_norm=0.5, sampling_rate=0.25, steps_per_epoch=4, local_epochs=1)
    module = LinearConfig().build(wide)
    run(module, data, mechanism)
    weights = next(module.parameters()).detach().numpy().ravel()
    expected = PLAIN.learning_rate * 2.0 * 0.5 / (0.25 * n) * math.sqrt(4)
    assert weights.std() == pytest.approx(expected, rel=0.05)
    assert stats.kstest(weights / expected, "norm").pvalue > 1e-3


def test_a_sample_is_poisson():
    source = SystemNoise(KEY)
    taken = np.zeros((4000, 30), dtype=bool)
    for row in taken:
        row[poisson_sample(30, 0.2, source)] = True
    sizes = np.bincount(taken.sum(axis=1), minlength=31)
    expected = stats.binom.pmf(np.arange(31), 30, 0.2) * 4000
    assert stats.chisquare(np.append(sizes[2:12], 4000 - sizes[2:12].sum()),
                           np.append(expected[2:12], 4000 - expected[2:12].sum())).pvalue > 1e-3  # fmt: skip
    assert np.abs(np.corrcoef(taken.T) - np.eye(30)).max() < 0.1
    assert len(poisson_sample(30, 1.0, source)) == 30


@pytest.mark.parametrize("kind", MODELS)
def test_empty_samples_are_steps_of_noise(kind: str):
    module, data = built(kind), cohort()
    before = flat(module)
    mechanism = Mechanism(1.0, clipping_norm=1.0, sampling_rate=1e-9, steps_per_epoch=2, local_epochs=2)
    result = run(module, data, mechanism, PLAIN.model_copy(update={"learning_rate": 1e-9}))
    assert torch.isfinite(flat(module)).all()
    assert not torch.equal(flat(module), before)
    assert all(math.isfinite(loss) and loss >= 0 for loss in result.train_loss)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_noise_is_never_the_same_twice_but_in_a_test(optimiser: str):
    settings = PLAIN.model_copy(update={"optimiser": optimiser, "augment": "flips_and_turns"})
    mechanism = Mechanism(1.0, clipping_norm=1.0, sampling_rate=0.5, steps_per_epoch=2, local_epochs=1)
    ends = []
    for key in (KEY, KEY, None, None):
        module = built("cnn3d")
        run(module, cohort(), mechanism, settings, key=key)
        ends.append(flat(module))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[2], ends[3])


def test_the_reported_loss_is_an_estimate_around_the_true_one():
    data = cohort(60)
    mechanism = Mechanism(0.8, clipping_norm=1.0, sampling_rate=0.5, steps_per_epoch=400, local_epochs=1)
    frozen = PLAIN.model_copy(update={"learning_rate": 1e-12})
    module = built("linear")
    true = float(TASK.loss(module(None, data.table), data.targets).mean().detach())
    assert run(module, data, mechanism, frozen).train_loss[0] == pytest.approx(true, abs=0.2)


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)

    def forward(self, image: torch.Tensor | None, table: torch.Tensor | None) -> torch.Tensor:
        return self.head(self.norm(table))


def test_a_model_that_mixes_cases_is_refused_by_the_name_of_its_layer():
    with pytest.raises(PrivacyError, match="norm is BatchNorm1d, which mixes"):
        run(Mixing(), cohort(), LITTLE_NOISE)
    require_separable(built("fusion"))


class PartialLikelihood:
    """Cox's: a number for the whole batch, in which each event is compared with all who are still at risk."""

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (torch.logsumexp(logits[:, 0], dim=0) - logits[:, 0]).sum()


def test_a_loss_that_couples_cases_is_refused():
    with pytest.raises(PrivacyError, match="no sum over cases"):
        run(built("linear"), cohort(), LITTLE_NOISE, task=PartialLikelihood())


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (RegressionTask(unit="mm"), torch.linspace(-1, 1, 10)),
        (SurvivalTask(interval_ends_days=(100.0,)), torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 5)),
    ],
    ids=["regression", "discrete hazards"],
)
def test_losses_that_are_sums_over_cases_train(task, targets: torch.Tensor):
    data = replace(cohort(), targets=targets)
    module = built("linear")
    before = flat(module)
    run(module, data, LITTLE_NOISE, task=task)
    assert not torch.equal(before, flat(module))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_counts_as_none_and_nobody_learns_of_it_by_a_failure(value: float):
    """To stop because of one case would tell of it, without noise; its loss counts as the largest."""
    data = cohort()
    table = data.table.clone()
    table[4, 1] = value
    module, others = built("linear"), [row for row in range(data.n_cases) if row != 4]
    gradients, losses = case_gradients(module, TASK)(None, table, data.targets)
    sums = [NoisedSums(trained_parameters(module), LITTLE_NOISE, data.n_cases, SystemNoise(KEY)) for _ in range(2)]
    sums[0].add(gradients, losses)
    sums[1].add([gradient[others] for gradient in gradients], losses[others])
    np.testing.assert_allclose(sums[0]._total[:-1], sums[1]._total[:-1], rtol=1e-12)
    added = (sums[0]._total - sums[1]._total)[-1] / sums[0]._loss_weight
    assert added == pytest.approx(LOSS_CEILING)
    run(module, replace(data, table=table), LITTLE_NOISE)
    assert torch.isfinite(flat(module)).all()


def test_the_event_says_what_the_steps_were():
    sampled = Mechanism(1.5, clipping_norm=1.0, sampling_rate=0.25, steps_per_epoch=4, local_epochs=3)
    assert (sampled.event.mechanism, sampled.event.steps, sampled.event.sampling_rate) == (SAMPLED_GAUSSIAN, 12, 0.25)
    assert replace(sampled, sampling_rate=1.0).event.mechanism == GAUSSIAN
