"""The *limit* of `simulations.benchmarks.rounds`: the same training steps in one process that sends nothing.

``python -m simulations.benchmarks.one_process`` trains the four sites' models one after the other as one writes it with
plain torch, on data that is in memory, and prints the CPU seconds of a warm round. With ``--tuned`` it has what a site
has beside that: glibc's allocator told to keep buffers, and an Adam of few lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.node import UNUSED_BYTES
from client.training.optimisers import Adam
from common.allocator import keep_buffers
from common.models.cnn3d import CnnConfig
from common.models.interface import ModelInputs

N_SITES, N_TRAIN, SIDE, BATCH, ROUNDS = 4, 96, 32, 8, 5
CHANNELS = (16, 32, 64, 128)
LEARNING_RATE = 1e-3

Step = Callable[[], object]


def new_model() -> nn.Module:
    """The network that the sites train: an image channel and the ROI, one logit."""
    return CnnConfig(channels=CHANNELS).build(ModelInputs(2, (SIDE, SIDE, SIDE), 0, 1))


def model_bytes() -> int:
    return 4 * sum(parameter.numel() for parameter in new_model().parameters())


def main() -> None:
    """Average after each round; prints the CPU seconds of a warm round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuned", action="store_true")
    tuned = parser.parse_args().tuned
    if tuned:
        keep_buffers(unused_bytes=UNUSED_BYTES)
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
            with torch.no_grad():
                for parameter, value in zip(parameters, start, strict=True):
                    parameter.copy_(value)
            _one_epoch(model, parameters, images, targets, _new_step(parameters, tuned=tuned))
            for mean, parameter in zip(total, parameters, strict=True):
                mean += parameter.detach() / N_SITES
        start = total
        rounds.append(process_time() - began)
    print(median(rounds[1:]))


def _new_step(parameters: Sequence[nn.Parameter], *, tuned: bool) -> Step:
    if tuned:
        return partial(Adam(parameters).step, LEARNING_RATE)
    return torch.optim.Adam(parameters, lr=LEARNING_RATE).step


def _one_epoch(
    model: nn.Module, parameters: Sequence[nn.Parameter], images: Tensor, targets: Tensor, step: Step
) -> None:
    for rows in torch.randperm(N_TRAIN).reshape(-1, BATCH):
        for parameter in parameters:
            parameter.grad = None
        loss = binary_cross_entropy_with_logits(model(images[rows], None), targets[rows])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        step()


if __name__ == "__main__":
    main()
