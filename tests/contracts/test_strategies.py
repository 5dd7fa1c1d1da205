"""The contract of every strategy, over the whole union."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from common.arrays import Parameters
from common.errors import FederationError
from common.messages import LocalUpdate
from common.strategies import ServerState, Strategy, StrategyConfig

CONFIGS: list[dict[str, object]] = [
    {"kind": "fedavg"},
    {"kind": "fedavg", "weighting": "uniform"},
    {"kind": "fedprox", "mu": 0.1},
    {"kind": "fedadam"},
    {"kind": "fedyogi"},
]


def build(config: dict[str, object]) -> Strategy:
    return TypeAdapter(StrategyConfig).validate_python(config).build()


def parameters(rng: np.random.Generator) -> Parameters:
    return Parameters({"w": rng.normal(size=(3, 4)), "b": rng.normal(size=()), "f": rng.normal(size=5).astype("f4")})


def update(start: Parameters, vector: np.ndarray, n_cases: int) -> LocalUpdate:
    return LocalUpdate("m", 1, n_cases, start.unflatten(vector), 0.5)


def test_every_strategy_of_the_union_is_under_contract() -> None:
    union = get_args(get_args(StrategyConfig)[0])
    assert {type(TypeAdapter(StrategyConfig).validate_python(c)) for c in CONFIGS} == set(union)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
class TestStrategy:
    def test_equal_updates_give_the_same_result_as_one(self, config: dict[str, object]) -> None:
        rng = np.random.default_rng(1)
        start = parameters(rng)
        delta = rng.normal(size=start.size)
        one, _ = build(config).aggregate(start, [update(start, delta, 10)], ServerState())
        three, _ = build(config).aggregate(start, [update(start, delta, n) for n in (10, 20, 5)], ServerState())
        np.testing.assert_allclose(three.flatten(), one.flatten(), rtol=1e-6)

    def test_order_of_sites_is_irrelevant(self, config: dict[str, object]) -> None:
        rng = np.random.default_rng(2)
        start = parameters(rng)
        updates = [update(start, rng.normal(size=start.size), n) for n in (7, 11, 13)]
        forward, _ = build(config).aggregate(start, updates, ServerState())
        backward, _ = build(config).aggregate(start, updates[::-1], ServerState())
        np.testing.assert_allclose(forward.flatten(), backward.flatten(), rtol=1e-6)

    def test_zero_updates_change_nothing(self, config: dict[str, object]) -> None:
        start = parameters(np.random.default_rng(3))
        after, _ = build(config).aggregate(start, [update(start, np.zeros(start.size), 4)], ServerState())
        assert after.digest() == start.digest()

    def test_no_update_and_nan_are_refused(self, config: dict[str, object]) -> None:
        start = parameters(np.random.default_rng(4))
        with pytest.raises(FederationError, match="no site"):
            build(config).aggregate(start, [], ServerState())
        with pytest.raises(FederationError, match="not finite"):
            build(config).aggregate(start, [update(start, np.full(start.size, np.nan), 4)], ServerState())

    def test_state_resumes_exactly(self, config: dict[str, object]) -> None:
        rng = np.random.default_rng(5)
        start = parameters(rng)
        first, second = (update(start, rng.normal(size=start.size), 3) for _ in range(2))
        middle, state = build(config).aggregate(start, [first], ServerState())
        copied = ServerState({name: vector.copy() for name, vector in state.vectors.items()})
        straight, _ = build(config).aggregate(middle, [second], state)
        resumed, _ = build(config).aggregate(middle, [second], copied)
        assert straight.digest() == resumed.digest()


def test_fedavg_is_the_mean_weighted_by_cases() -> None:
    start = Parameters({"w": np.zeros(2)})
    updates = [update(start, np.array([1.0, 0.0]), 1), update(start, np.array([0.0, 2.0]), 3)]
    after, _ = build({"kind": "fedavg"}).aggregate(start, updates, ServerState())
    np.testing.assert_allclose(after["w"], [0.25, 1.5])
    uniform, _ = build({"kind": "fedavg", "weighting": "uniform"}).aggregate(start, updates, ServerState())
    np.testing.assert_allclose(uniform["w"], [0.5, 1.0])


def test_fedprox_penalty_is_half_mu_times_the_squared_distance() -> None:
    strategy = build({"kind": "fedprox", "mu": 0.4})
    weights, reference = [np.ones((2, 2)), np.zeros(3)], [np.zeros((2, 2)), np.ones(3)]
    assert strategy.penalty(weights, reference) == pytest.approx(0.2 * 7)
    assert strategy.penalty(reference, reference) == 0
    assert build({"kind": "fedavg"}).penalty(weights, reference) == 0
