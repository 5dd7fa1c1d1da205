"""The training loop: what it computes, that it repeats bit for bit, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from client.training.loop import (
    ModelData,
    Position,
    TrainingData,
    TrainingResult,
    dense_weight_penalty,
    predict,
    reproducible,
    train,
)
from common.errors import StatisticError
from common.models import CnnConfig, FusionConfig, LinearConfig, ModelInputs, initial_parameters
from common.models.weights import get_parameters, set_parameters
from common.rng import generator
from common.tasks import ClassificationTask, TrainingConfig

TASK = ClassificationTask(classes=("no", "yes"))
TABLE = ModelInputs(0, (0, 0, 0), 3, 1)
BOTH = ModelInputs(2, (8, 8, 8), 3, 1)


def table_data(n: int = 50) -> TrainingData:
    rng = np.random.default_rng(2)
    table = rng.normal(size=(n, 3)).astype(np.float32)
    labels = (table[:, 0] - 0.5 * table[:, 1] + rng.logistic(size=n) > 0).astype(np.int64)
    return TrainingData(None, torch.from_numpy(table), torch.from_numpy(labels))


def image_data(n: int = 12) -> TrainingData:
    rng = np.random.default_rng(3)
    images = rng.normal(size=(n, 2, 8, 8, 8)).astype(np.float32)
    images[:, 1] = images[:, 1] > 0
    table = rng.normal(size=(n, 3)).astype(np.float32)
    return TrainingData(torch.from_numpy(images), torch.from_numpy(table), torch.arange(n) % 2)


def run(
    module: nn.Module, data: TrainingData, settings: TrainingConfig, *, round_number: int = 1, rounds: int = 1
) -> TrainingResult:
    return train(
        module,
        data,
        task=TASK,
        settings=settings,
        position=Position(round_number, rounds),
        generator=generator(5, "train", round_number),
    )


def test_linear_reaches_the_penalised_optimum_of_scikit_learn() -> None:
    data, l2 = table_data(), 0.05
    assert data.table is not None
    module = LinearConfig().build(TABLE)
    run(module, data, TrainingConfig(optimiser="sgd", learning_rate=0.5, batch_size=50, local_epochs=600, l2=l2))
    # scikit-learn minimises C * sum of losses + |w|^2 / 2: divided by C n this is the mean loss + l2 / 2 |w|^2
    reference = LogisticRegression(C=1 / (l2 * 50), tol=1e-10).fit(data.table.numpy(), data.targets.numpy())
    np.testing.assert_allclose(get_parameters(module)["head.weight"], reference.coef_, atol=2e-4)
    np.testing.assert_allclose(get_parameters(module)["head.bias"], reference.intercept_, atol=2e-4)


def test_rounds_without_optimiser_state_are_one_long_descent() -> None:
    data = table_data()
    settings = TrainingConfig(optimiser="sgd", learning_rate=0.3, batch_size=50, local_epochs=1)
    in_rounds = LinearConfig().build(TABLE)
    for round_number in range(1, 7):
        run(in_rounds, data, settings, round_number=round_number, rounds=6)
    at_once = LinearConfig().build(TABLE)
    run(at_once, data, settings.model_copy(update={"local_epochs": 6}))
    np.testing.assert_allclose(
        get_parameters(in_rounds).flatten(), get_parameters(at_once).flatten(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_round_repeats_bit_for_bit(optimiser: str) -> None:
    settings = TrainingConfig.model_validate(
        {"optimiser": optimiser, "batch_size": 5, "local_epochs": 2, "augment": "flips_and_turns", "l2": 0.01}
    )
    config = FusionConfig(channels=(4, 8), group_size=4)
    digests = set()
    for _ in range(2):
        module = config.build(BOTH)
        set_parameters(module, initial_parameters(config, BOTH, 1))
        run(module, image_data(), settings, round_number=2, rounds=3)
        digests.add(get_parameters(module).digest())
    assert len(digests) == 1


SCRIPT = """
import numpy as np, torch
from client.training import Position, TrainingData, train
from common.models import FusionConfig, ModelInputs, initial_parameters
from common.models.weights import get_parameters, set_parameters
from common.rng import generator
from common.tasks import ClassificationTask, TrainingConfig
rng = np.random.default_rng(0)
images = rng.normal(size=(20, 2, 12, 12, 12)).astype(np.float32)
images[:, 1] = images[:, 1] > 0
table = rng.normal(size=(20, 3)).astype(np.float32)
data = TrainingData(torch.from_numpy(images), torch.from_numpy(table), torch.arange(20) % 2)
inputs = ModelInputs(2, (12, 12, 12), 3, 1)
config = FusionConfig(channels=(8, 16))
module = config.build(inputs)
set_parameters(module, initial_parameters(config, inputs, 4))
settings = TrainingConfig(learning_rate=0.003, batch_size=8, local_epochs=2, l2=0.05, augment="flips_and_turns")
train(module, data, task=ClassificationTask(classes=("a", "b")), settings=settings, position=Position(1, 2),
      generator=generator(9, "train", "east", 1))
print(get_parameters(module).digest())
"""


def test_processes_agree_bit_for_bit_whatever_threads_they_are_given() -> None:
    digests = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_global_generators_and_threads_are_left_alone() -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002  # the state that must not move
    threads = torch.get_num_threads()
    run(CnnConfig(channels=(4,), group_size=4).build(BOTH), image_data(), TrainingConfig(augment="flips_and_turns"))
    with reproducible():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    after = np.random.get_state()  # noqa: NPY002  # as above
    assert np.array_equal(numpy_state[1], after[1])
    # building draws the initial weights; the loop itself draws nothing
    torch.random.set_rng_state(torch_state)
    module = LinearConfig().build(TABLE)
    before = torch.random.get_rng_state()
    run(module, table_data(), TrainingConfig())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_case_comes_once_an_epoch_in_near_equal_batches() -> None:
    seen: list[list[int]] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, image: torch.Tensor | None, table: torch.Tensor | None) -> torch.Tensor:
            assert table is not None
            seen.append([int(v) for v in table[:, 0]])
            return self.bias.expand(len(table), 1)

    data = TrainingData(None, torch.arange(17.0)[:, None], torch.arange(17) % 2)
    run(Spy(), data, TrainingConfig(batch_size=8, local_epochs=2))
    assert [len(batch) for batch in seen] == [6, 6, 5, 6, 6, 5]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(case for batch in epoch for case in batch) == list(range(17))
    assert seen[0] != seen[3]


def test_penalties_enter_the_gradient() -> None:
    data = table_data()
    settings = TrainingConfig(optimiser="sgd", learning_rate=0.1, batch_size=50, schedule="constant")

    def weights(l2: float, scale: float) -> np.ndarray:
        module = LinearConfig().build(TABLE)
        with torch.no_grad():
            module.head.weight.fill_(1.0)
        train(
            module,
            data,
            task=TASK,
            settings=settings.model_copy(update={"l2": l2}),
            position=Position(1, 1),
            generator=np.random.default_rng(0),
            penalty=lambda m: scale * dense_weight_penalty(m),
        )
        return get_parameters(module)["head.weight"]

    plain = weights(0.0, 0.0)
    np.testing.assert_allclose(weights(0.5, 0.0), plain - 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(weights(0.0, 0.5), weights(0.5, 0.0), rtol=1e-6)


def test_penalty_covers_dense_weights_alone() -> None:
    module = FusionConfig(channels=(4,), group_size=4).build(BOTH)
    weights = [v for name, v in get_parameters(module).items() if name in ("image_head.weight", "table_head.weight")]
    assert float(dense_weight_penalty(module).detach()) == pytest.approx(
        0.5 * sum(float((w**2).sum()) for w in weights)
    )


def test_clipping_bounds_a_step_of_descent() -> None:
    module = LinearConfig().build(TABLE)
    settings = TrainingConfig(
        optimiser="sgd", learning_rate=1.0, batch_size=50, schedule="constant", gradient_clip=0.01
    )
    run(module, table_data(), settings)
    assert get_parameters(module).norm() == pytest.approx(0.01, rel=1e-4)


def test_progress_is_told_every_epoch() -> None:
    told: list[tuple[int, float]] = []
    result = train(
        LinearConfig().build(TABLE),
        table_data(),
        task=TASK,
        settings=TrainingConfig(local_epochs=3),
        position=Position(1, 1),
        generator=np.random.default_rng(0),
        progress=lambda epoch, loss: told.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert tuple(loss for _, loss in told) == result.train_loss
    assert result.n_cases == 50


def test_runaway_training_raises() -> None:
    settings = TrainingConfig(optimiser="sgd", learning_rate=1e38, batch_size=10, local_epochs=20, l2=1.0)
    with pytest.raises(StatisticError, match="training loss became"):
        run(LinearConfig().build(TABLE), table_data(), settings)


def test_prediction_is_the_same_in_any_batches_and_leaves_no_gradient() -> None:
    module = FusionConfig(channels=(4,), group_size=4).build(BOTH)
    data = image_data()
    whole = predict(module, data, batch_size=64)
    assert whole.shape == (12, 1)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(predict(module, data, batch_size=5), whole, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelData(None, None), "needs images or a table"),
        (lambda: ModelData(torch.zeros(2, 2, 4, 4, 4), torch.zeros(3, 1)), "2 images for 3 rows"),
        (lambda: TrainingData(None, torch.zeros(3, 1), torch.zeros(2)), "2 targets for 3 cases"),
        (lambda: TrainingData(None, torch.zeros(0, 1), torch.zeros(0)), "no cases to train on"),
        (lambda: predict(LinearConfig().build(TABLE), ModelData(None, torch.zeros(0, 3))), "no cases to predict"),
        (lambda: Position(0, 3), "round 0 of 3"),
        (lambda: Position(4, 3), "round 4 of 3"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
