"""The contract of every task, over the whole union."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from client.training.loop import ModelData, Position, TrainingData, predict, train
from common.models import LinearConfig, ModelInputs
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome, SurvivalOutcome
from common.tasks import TaskConfig, TrainingConfig

CONFIGS: list[dict[str, object]] = [
    {"kind": "classification", "classes": ["benign", "malignant"]},
    {"kind": "classification", "classes": ["a", "b", "c"], "class_weights": [1.0, 2.0, 0.5]},
    {"kind": "regression", "unit": "years", "centre": 60.0, "scale": 10.0},
    {"kind": "regression", "unit": "years", "centre": 58.0, "scale": 8.0, "loss_kind": "huber"},
    {"kind": "survival", "interval_ends_days": [100.0, 300.0, 700.0]},
]
N_CASES = 60


def validated(config: dict[str, object]):  # a union has no common base
    return TypeAdapter(TaskConfig).validate_python(config)


def separable(config: dict[str, object]) -> tuple[torch.Tensor, Outcome]:
    """A table (n, 3) whose first column decides the outcome."""
    generator = np.random.default_rng(5)
    table = generator.normal(size=(N_CASES, 3))
    sign = table[:, 0]
    if config["kind"] == "classification":
        classes = tuple(str(name) for name in config["classes"])  # type: ignore[attr-defined]
        outcome: Outcome = ClassOutcome(np.argsort(np.argsort(sign)) * len(classes) // N_CASES, classes)
    elif config["kind"] == "regression":
        outcome = ScalarOutcome(60.0 + 10.0 * sign, "years")
    else:
        outcome = SurvivalOutcome(np.arange(N_CASES) % 4 > 0, 300.0 * np.exp(sign))
    return torch.from_numpy(table.astype(np.float32)), outcome


def test_every_task_of_the_union_is_under_contract() -> None:
    union = get_args(get_args(TaskConfig)[0])
    assert {type(validated(config)) for config in CONFIGS} == set(union)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
class TestTask:
    def test_loss_falls_on_separable_data(self, config: dict[str, object]) -> None:
        task = validated(config)
        table, outcome = separable(config)
        module = LinearConfig().build(ModelInputs(0, (0, 0, 0), 3, task.n_outputs))
        data = TrainingData(None, table, task.targets(outcome))
        before = float(task.loss(torch.zeros(N_CASES, task.n_outputs), data.targets).mean())
        settings = TrainingConfig(learning_rate=0.1, schedule="constant", batch_size=20, local_epochs=60)
        result = train(
            module,
            data,
            task=task,
            settings=settings,
            position=Position(1, 1),
            generator=np.random.default_rng(0),
        )
        assert result.train_loss[-1] < 0.6 * before

    def test_loss_is_a_case_at_a_time(self, config: dict[str, object]) -> None:
        task = validated(config)
        _, outcome = separable(config)
        targets = task.targets(outcome)
        logits = torch.randn(N_CASES, task.n_outputs, generator=torch.Generator().manual_seed(0))
        whole = task.loss(logits, targets)
        assert whole.shape == (N_CASES,)
        parts = [task.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(N_CASES)]
        torch.testing.assert_close(torch.cat(parts), whole)

    def test_targets_of_a_part_are_the_part_of_the_targets(self, config: dict[str, object]) -> None:
        task = validated(config)
        _, outcome = separable(config)
        rows = np.array([4, 1, 30])
        assert torch.equal(task.targets(outcome.take(rows)), task.targets(outcome)[torch.from_numpy(rows)])

    def test_link_is_finite_far_out_and_one_row_a_case(self, config: dict[str, object]) -> None:
        task = validated(config)
        logits = np.array([-1e4, -3.0, 0.0, 3.0, 1e4], dtype=np.float32)[:, None] * np.ones(
            (1, task.n_outputs), np.float32
        )
        shown = task.link(logits)
        assert shown.shape[0] == 5
        assert shown.dtype == np.float64
        assert np.isfinite(shown).all()

    def test_other_outcomes_are_refused_by_name(self, config: dict[str, object]) -> None:
        task = validated(config)
        others: list[Outcome] = [
            ClassOutcome(np.array([0]), ("x", "y")),
            ScalarOutcome(np.array([1.0]), "mm"),
            SurvivalOutcome(np.array([True]), np.array([1.0])),
        ]
        foreign = [o for o in others if not (config["kind"] == "survival" and isinstance(o, SurvivalOutcome))]
        for outcome in foreign:
            with pytest.raises(TypeError, match="needs"):
                task.targets(outcome)

    def test_prediction_ranks_the_separable_cases(self, config: dict[str, object]) -> None:
        task = validated(config)
        table, outcome = separable(config)
        module = LinearConfig().build(ModelInputs(0, (0, 0, 0), 3, task.n_outputs))
        settings = TrainingConfig(learning_rate=0.1, schedule="constant", batch_size=20, local_epochs=60)
        train(
            module,
            TrainingData(None, table, task.targets(outcome)),
            task=task,
            settings=settings,
            position=Position(1, 1),
            generator=np.random.default_rng(0),
        )
        shown = task.link(predict(module, ModelData(None, table)))[:, -1]
        assert abs(np.corrcoef(shown, table[:, 0].numpy())[0, 1]) > 0.7
