"""Losses and links against closed forms and published formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import expit, log_softmax

from common.outcomes import ClassOutcome, ScalarOutcome, SurvivalOutcome
from common.tasks import ClassificationTask, RegressionTask, SurvivalTask, TrainingConfig

BINARY = ClassificationTask(classes=("no", "yes"))


def test_two_classes_have_one_logit_and_the_logistic_loss() -> None:
    logits = np.array([[-2.0], [0.5], [3.0]])
    labels = np.array([0, 1, 0])
    p = expit(logits[:, 0])
    expected = -np.log(np.where(labels == 1, p, 1 - p))
    assert BINARY.n_outputs == 1
    found = BINARY.loss(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(BINARY.link(logits), np.stack([1 - p, p], axis=1), rtol=1e-12)


def test_three_classes_have_the_softmax_loss() -> None:
    task = ClassificationTask(classes=("a", "b", "c"), class_weights=(1.0, 2.0, 4.0))
    logits = np.random.default_rng(0).normal(size=(5, 3))
    labels = np.array([0, 1, 2, 2, 1])
    expected = -log_softmax(logits, axis=1)[np.arange(5), labels] * np.array([1.0, 2.0, 4.0])[labels]
    np.testing.assert_allclose(task.loss(torch.from_numpy(logits), torch.from_numpy(labels)).numpy(), expected)
    np.testing.assert_allclose(task.link(logits).sum(axis=1), 1.0)


def test_balanced_weights_come_from_the_counts_of_all_sites() -> None:
    task = ClassificationTask(classes=("a", "b"), class_weights="balanced")
    with pytest.raises(ValueError, match="with_class_counts"):
        task.loss(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    ready = task.with_class_counts((30, 10))
    assert ready.class_weights == pytest.approx((40 / 60, 40 / 20))
    losses = ready.loss(torch.zeros(40, 1), torch.tensor([0] * 30 + [1] * 10))
    assert float(losses[:30].sum()) == pytest.approx(float(losses[30:].sum()))
    assert BINARY.with_class_counts((30, 10)) is BINARY
    with pytest.raises(ValueError, match="a case of each class"):
        task.with_class_counts((30, 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ("a",)}, "at least 2"),
        ({"classes": ("a", "a")}, "given twice"),
        ({"classes": ("a", "b"), "class_weights": (1.0,)}, "1 class_weights for 2 classes"),
        ({"classes": ("a", "b"), "class_weights": (1.0, 0.0)}, "greater than 0"),
        ({"classes": ("a", "b"), "weight": 1}, "not permitted"),
    ],
)
def test_faulty_classification_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassificationTask.model_validate(fields)


def test_outcome_with_other_classes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got classes \('yes', 'no'\)"):
        BINARY.targets(ClassOutcome(np.array([0]), ("yes", "no")))


def test_regression_scales_there_and_back() -> None:
    task = RegressionTask(unit="mm", centre=5.0, scale=2.0)
    values = np.array([1.0, 5.0, 8.0])
    targets = task.targets(ScalarOutcome(values, "mm"))
    np.testing.assert_allclose(targets.numpy(), [-2.0, 0.0, 1.5])
    np.testing.assert_allclose(task.link(targets.numpy()[:, None])[:, 0], values)
    with pytest.raises(TypeError, match="in mm needs that outcome, got cm"):
        task.targets(ScalarOutcome(values, "cm"))


def test_huber_is_squared_near_and_linear_far() -> None:
    squared = RegressionTask(unit="mm")
    huber = RegressionTask(unit="mm", loss_kind="huber")
    errors = torch.tensor([[0.0], [0.5], [-0.9], [3.0], [-10.0]])
    targets = torch.zeros(5)
    torch.testing.assert_close(squared.loss(errors, targets), 0.5 * errors[:, 0] ** 2)
    torch.testing.assert_close(huber.loss(errors, targets)[:3], squared.loss(errors, targets)[:3])
    torch.testing.assert_close(huber.loss(errors, targets)[3:], torch.tensor([2.5, 9.5]))


class TestSurvival:
    task = SurvivalTask(interval_ends_days=(100.0, 200.0, 400.0))

    def test_targets_follow_equation_4(self) -> None:
        outcome = SurvivalOutcome(
            event=np.array([True, True, False, False, True, False]),
            time_days=np.array([50.0, 200.0, 140.0, 160.0, 900.0, 400.0]),
        )
        survived, died = self.task.targets(outcome).numpy().reshape(6, 2, 3).transpose(1, 0, 2)
        np.testing.assert_array_equal(
            survived,
            [
                [0, 0, 0],  # event in the first interval
                [1, 0, 0],  # event at the end of the second
                [1, 0, 0],  # censored before the second's middle
                [1, 1, 0],  # censored after it
                [1, 1, 1],  # event beyond the last end
                [1, 1, 1],  # censored at the last end
            ],
        )
        np.testing.assert_array_equal(died.sum(axis=1), [1, 1, 0, 0, 0, 0])
        np.testing.assert_array_equal(died[:2], [[1, 0, 0], [0, 1, 0]])

    def test_loss_is_the_likelihood_of_the_hazards(self) -> None:
        logits = np.array([[0.3, -1.0, 2.0]])
        hazard = expit(logits[0])
        died_in_second = self.task.targets(SurvivalOutcome(np.array([True]), np.array([150.0])))
        expected = -np.log((1 - hazard[0]) * hazard[1])
        assert float(self.task.loss(torch.from_numpy(logits), died_in_second.double())) == pytest.approx(expected)

    def test_link_is_the_product_of_surviving(self) -> None:
        logits = np.array([[0.3, -1.0, 2.0]])
        np.testing.assert_allclose(self.task.link(logits)[0], np.cumprod(1 - expit(logits[0])))

    def test_best_hazards_are_the_life_table(self) -> None:
        """With one set of logits for all cases the minimum is events / at risk (Kaplan-Meier on the intervals)."""
        time = np.array([50.0] * 2 + [150.0] * 3 + [300.0] * 1 + [900.0] * 4)
        targets = self.task.targets(SurvivalOutcome(np.array([True] * 6 + [False] * 4), time))
        logits = torch.zeros(1, 3, requires_grad=True)
        hazard = torch.tensor([2 / 10, 3 / 8, 1 / 5])
        with torch.no_grad():
            logits.copy_(torch.logit(hazard)[None])
        self.task.loss(logits.expand(10, 3), targets).sum().backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-5, rtol=0)

    def test_ends_must_rise(self) -> None:
        with pytest.raises(ValidationError, match="must rise"):
            SurvivalTask(interval_ends_days=(100.0, 100.0))


class TestRate:
    def test_cosine_falls_to_zero_over_the_study(self) -> None:
        settings = TrainingConfig(learning_rate=0.1)
        assert [settings.rate(d) for d in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 0.05, 0.0])

    def test_warm_up_rises_and_meets_the_schedule(self) -> None:
        settings = TrainingConfig(learning_rate=0.1, warmup=0.2)
        assert [settings.rate(d) for d in (0.0, 0.1, 0.2)] == pytest.approx([0.0, 0.05, 0.1])
        assert settings.rate(0.6) == pytest.approx(0.05)

    def test_constant_stays(self) -> None:
        settings = TrainingConfig(learning_rate=0.1, schedule="constant")
        assert settings.rate(0.0) == settings.rate(1.0) == 0.1

    @pytest.mark.parametrize("done", [-0.01, 1.01])
    def test_shares_beyond_the_study_are_refused(self, done: float) -> None:
        with pytest.raises(ValueError, match=r"0\.\.1"):
            TrainingConfig().rate(done)
