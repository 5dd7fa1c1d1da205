from __future__ import annotations

import pytest

from common.config.private_networks import private_network_advice
from simulations.benchmarks.privacy import DELTA, DEMO, MODELS, read, study_text

RECOMMENDED = MODELS[1]


def advice(model, epsilon: float = 8.0) -> list[str]:
    return list(private_network_advice(read(study_text(model, epsilon, 0.375, DELTA))))


def test_a_network_with_settings_for_no_noise_is_advised_on_by_name():
    (sentence,) = advice(DEMO)
    assert sentence.startswith(
        'Network demo is trained under noise without filters = "scattering", centred = true, optimiser = "sgd":'
    )


@pytest.mark.parametrize(
    ("model", "epsilon"),
    [(RECOMMENDED, 8.0), (MODELS[0], 8.0), (DEMO, float("inf"))],
    ids=["recommended", "linear", "no noise"],
)
def test_nothing_is_advised_where_nothing_lacks(model, epsilon: float):
    assert advice(model, epsilon) == []
