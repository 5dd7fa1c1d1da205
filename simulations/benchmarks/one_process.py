"""The *limit* of `simulations.benchmarks.rounds`: the same training steps in one process that sends nothing.

``python -m simulations.benchmarks.one_process`` trains the four sites' models one after the other with plain torch,
on data that is in memory, and prints the CPU seconds of a warm round.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.training.optimisers import Adam
from common.allocator import keep_buffers
from common.models.cnn3d import CnnConfig
from common.models.interface import ModelInputs

N_SITES, N_TRAIN, SIDE, BATCH, ROUNDS = 4, 96, 32, 8, 5
CHANNELS = (16, 32, 64, 128)
LEARNING_RATE = 1e-3


def new_model() -> nn.Module:
    """The network that the sites train: an image channel and the ROI, one logit."""
    return CnnConfig(channels=CHANNELS).build(ModelInputs(2, (SIDE, SIDE, SIDE), 0, 1))


def model_bytes() -> int:
    return 4 * sum(parameter.numel() for parameter in new_model().parameters())


def main() -> None:
    """Average after each round; prints the CPU seconds of a warm round."""
    keep_buffers()  # as the sites do
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = new_model()
    shape = (N_TRAIN, 2, SIDE, SIDE, SIDE)
    sites = [torch.from_numpy(np.random.default_rng(n).random(shape, "f4")) for n in range(N_SITES)]
    targets = (torch.arange(N_TRAIN) % 2).float()[:, None]
    parameters = tuple(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = process_time()
        total = [torch.zeros_like(parameter) for parameter in start]
        for images in sites:
            _one_epoch(model, parameters, start, images, targets)
            for mean, parameter in zip(total, parameters, strict=True):
                mean += parameter.detach() / N_SITES
        start = total
        rounds.append(process_time() - began)
    print(median(rounds[1:]))


def _one_epoch(
    model: nn.Module, parameters: tuple[nn.Parameter, ...], start: Sequence[Tensor], images: Tensor, targets: Tensor
) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
    optimiser = Adam(parameters)
    for rows in torch.randperm(N_TRAIN).reshape(-1, BATCH):
        for parameter in parameters:
            parameter.grad = None
        loss = binary_cross_entropy_with_logits(model(images[rows], None), targets[rows])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step(LEARNING_RATE)


if __name__ == "__main__":
    main()
