"""The time of a step of DP-SGD beside a plain one: a part of ``make bench-privacy``."""

from __future__ import annotations

import time

import numpy as np
import torch

from client.training.dp_sgd import Mechanism, train_private
from client.training.loop import Position, TrainingData, train
from common.models import CnnConfig, ModelInputs
from common.rng import SystemNoise, generator
from common.tasks import ClassificationTask, TrainingConfig


def step_times() -> tuple[float, float]:
    """CPU seconds of a plain and a private step of the 3D network of the demo on 32 cases of 16 x 16 x 16 voxels."""
    n = 32
    draws = generator(0, "bench-privacy")
    images = draws.normal(size=(n, 2, 16, 16, 16)).astype(np.float32)
    images[:, 1] = images[:, 1] > 0
    data = TrainingData(torch.from_numpy(images), None, torch.arange(n) % 2)
    module = CnnConfig(channels=(16, 32)).build(ModelInputs(2, (16, 16, 16), 0, 1))
    task = ClassificationTask(classes=("no", "yes"))
    settings = TrainingConfig(batch_size=n, local_epochs=10)
    mechanism = Mechanism(1.0, clipping_norm=1.0, sampling_rate=1.0, steps_per_epoch=1, local_epochs=10)
    position, plain, private = Position(1, 1), [], []
    for _ in range(4):
        started = time.process_time()
        train(module, data, task=task, settings=settings, position=position, generator=draws)
        between = time.process_time()
        train_private(
            module, data, task=task, settings=settings, position=position, mechanism=mechanism, source=SystemNoise()
        )
        plain.append((between - started) / 10)
        private.append((time.process_time() - between) / 10)
    return min(plain), min(private)
