"""The first round of a centred model: the mean of its features over the site's cases (`common.models.networks.centre`).

Without privacy the mean is exact. Under sample-level privacy it is one release of the mechanism that also protects the
gradients: each case's features, scaled by a public number, are clipped to the clipping norm, added up beside the case's
loss, and the sum is noised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from client.training.dp_sgd import CASES_AT_ONCE, Mechanism, NoisedSums, require_separable
from client.training.loop import CPU, Task, TrainingData, TrainingResult, reproducible, take_rows
from client.training.optimisers import gradient_of
from common.errors import StatisticError
from common.models.networks.centre import Centre, centre_of
from common.rng import NoiseSource

LARGEST_RMS = 3.0
"""Root mean square of a case's features up to which clipping leaves them alone; models make them to be about 1."""


def learn_centre(module: nn.Module, data: TrainingData, *, task: Task, device: torch.device = CPU) -> TrainingResult:
    """Set the centre of ``module``, in place, to the mean of its features; the loss reported is that before.

    Raises
    ------
    StatisticError
        If a feature is no finite number.
    """
    centre = centre_of(module)
    total = torch.zeros(centre.mean.numel(), dtype=torch.float64)
    loss = 0.0
    with reproducible():
        for features, losses in _case_features(module, centre, data, task, device):
            total += features.double().sum(dim=0).cpu()
            loss += float(losses.double().sum())
    _set(centre, total / data.n_cases)
    return TrainingResult((loss / data.n_cases,), data.n_cases)


def learn_centre_private(
    module: nn.Module,
    data: TrainingData,
    *,
    task: Task,
    mechanism: Mechanism,
    source: NoiseSource,
    device: torch.device = CPU,
) -> TrainingResult:
    """As `learn_centre`, under ``mechanism.once``: mean and loss are noised.

    Raises
    ------
    PrivacyError
        If the model mixes cases.
    """
    require_separable(module)
    centre = centre_of(module)
    sums = NoisedSums((centre.mean,), mechanism.once, data.n_cases, source)
    scale = mechanism.clipping_norm / (LARGEST_RMS * math.sqrt(centre.mean.numel()))
    with reproducible():
        for features, losses in _case_features(module, centre, data, task, device):
            sums.add([features * scale], losses)
        loss = sums.release()
    _set(centre, gradient_of(centre.mean).double() / scale)
    return TrainingResult((max(0.0, loss),), data.n_cases)


def _case_features(
    module: nn.Module, centre: Centre, data: TrainingData, task: Task, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """What enters the centre, (B, n), and the loss, (B,), of some cases after the other; without augmentation."""
    module.to(device).eval()
    entering: list[Tensor] = []
    hook = centre.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    try:
        with torch.no_grad():
            for start in range(0, data.n_cases, CASES_AT_ONCE):
                rows = torch.arange(start, min(start + CASES_AT_ONCE, data.n_cases))
                logits = module(take_rows(data.images, rows, device), take_rows(data.table, rows, device))
                yield entering.pop(), task.loss(logits, data.targets[rows].to(device))
    finally:
        hook.remove()


def _set(centre: Centre, mean: Tensor) -> None:
    if not bool(torch.isfinite(mean).all()):
        raise StatisticError("the mean of a model's features is not finite")
    with torch.no_grad():
        centre.mean.copy_(mean)
    centre.mean.grad = None
