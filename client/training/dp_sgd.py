"""DP-SGD: training of which each case's share is bounded and noised (Abadi et al. 2016, arXiv:1607.00133).

Legend: ``n`` cases, ``B`` cases of a sample, ``P`` values of the model.

Every step draws a Poisson sample (each case by itself, with probability ``sampling_rate``, from the system's
entropy), scales each sampled case's gradient to at most ``clipping_norm``, adds them up, adds Gaussian noise of
``noise_multiplier * clipping_norm``, and divides by the *expected* size of a sample, which tells nothing about the
drawn one. An empty sample is a step of noise alone. Whatever follows (optimiser, penalty on the weights, schedule) sees
the noised sum only.

Gradients of single cases come from `torch.func.vmap`: on the 3D network it takes half the time of Opacus' hooks, which
the tests compare it with. The training loss is protected too: each case's loss, cut at `LOSS_CEILING`, is one more
coordinate of its gradient under the same clipping norm, so it costs no budget beside the gradient's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from client.training.augment import augmented
from client.training.loop import (
    CPU,
    Penalty,
    Position,
    Progress,
    Task,
    TrainingData,
    TrainingResult,
    dense_weight_penalty,
    new_optimiser,
    reproducible,
    take_rows,
)
from client.training.optimisers import gradient_of
from client.training.time_slices import long_slices
from common.errors import PrivacyError
from common.messages import PrivacyEvent
from common.models.networks.centre import trained_parameters
from common.privacy.gaussian import inflated, with_noise
from common.privacy.ledger import gaussian, sampled_gaussian
from common.rng import NoiseSource
from common.tasks import TrainingConfig

LOSS_SHARE = 0.1
"""Share of the clipping norm that a case's loss takes; it leaves 99.5 % of the norm to the gradient."""
LOSS_CEILING = 4.0
"""A case's loss is counted up to here: beyond 98 % certainty in the wrong class."""
ROUNDING_MARGIN = 2.0**-10
"""Share of the norm that covers float32's rounding, which may differ with the cases that are computed together."""
CASES_AT_ONCE = 64
"""Most cases whose gradients are in memory together."""


@dataclass(frozen=True)
class Mechanism:
    """The noise and sampling of one model's training in one fold at one site.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in clipping norms.
    clipping_norm : float
    sampling_rate : float
        Probability that a case is in a step's sample, in (0, 1].
    steps_per_epoch : int
    local_epochs : int
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float
    steps_per_epoch: int
    local_epochs: int

    @property
    def steps(self) -> int:
        """Steps of a round."""
        return self.steps_per_epoch * self.local_epochs

    @property
    def once(self) -> Mechanism:
        """The same noise for one release about all cases: how a centred model's first round is protected."""
        return replace(self, sampling_rate=1.0, steps_per_epoch=1, local_epochs=1)

    @property
    def event(self) -> PrivacyEvent:
        """What a round costs."""
        if self.sampling_rate == 1:
            return gaussian(self.noise_multiplier, steps=self.steps)
        return sampled_gaussian(self.noise_multiplier, sampling_rate=self.sampling_rate, steps=self.steps)


def train_private(
    module: nn.Module,
    data: TrainingData,
    *,
    task: Task,
    settings: TrainingConfig,
    position: Position,
    mechanism: Mechanism,
    source: NoiseSource,
    penalty: Penalty | None = None,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> TrainingResult:
    """Train ``module`` in place for one round, as `client.training.loop.train` does, under ``mechanism``.

    The losses reported are noised estimates, at least 0.

    Raises
    ------
    PrivacyError
        If the model or its loss mixes cases, so that no case has a gradient of its own.
    """
    require_separable(module)
    module.to(device).train()
    optimiser = new_optimiser(module, settings)
    gradients = case_gradients(module, task)
    sums = NoisedSums(trained_parameters(module), mechanism, data.n_cases, source)
    losses: list[float] = []
    with reproducible(), long_slices():
        for epoch in range(mechanism.local_epochs):
            estimates = []
            for number in range(mechanism.steps_per_epoch):
                sampled = poisson_sample(data.n_cases, mechanism.sampling_rate, source)
                draws = _augmentation_draws(source)
                for start in range(0, len(sampled), CASES_AT_ONCE):
                    rows = torch.from_numpy(sampled[start : start + CASES_AT_ONCE])
                    images = take_rows(data.images, rows, device)
                    if images is not None:
                        images = augmented(images, draws, kind=settings.augment)
                    sums.add(*gradients(images, take_rows(data.table, rows, device), data.targets[rows].to(device)))
                estimates.append(sums.release())
                _add_penalties(module, settings, penalty)
                done = (epoch + number / mechanism.steps_per_epoch) / mechanism.local_epochs
                optimiser.step(settings.rate(position.done(done)))
            losses.append(max(0.0, float(np.mean(estimates))))
            if progress is not None:
                progress(epoch + 1, losses[-1])
    return TrainingResult(tuple(losses), data.n_cases)


def poisson_sample(n_cases: int, sampling_rate: float, source: NoiseSource) -> npt.NDArray[np.int64]:
    """Rows of the cases that take part in a step: each by itself with the same probability; there may be none."""
    return np.flatnonzero(source.uniform(n_cases) < sampling_rate)


def require_separable(module: nn.Module) -> None:
    """Refuse a model in which one case's output depends on the others of its batch, with every reason.

    Raises
    ------
    PrivacyError
        Naming the layers that take statistics over a batch, or keep state between batches.
    """
    faults = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            faults.append(f"{name or 'model'} is {type(layer).__name__}, which mixes the cases of a batch")
        elif any(True for _ in layer.buffers(recurse=False)):
            faults.append(f"{name or 'model'} ({type(layer).__name__}) keeps state between batches")
    if faults:
        raise PrivacyError(f"no gradient of a single case, so no sample-level privacy: {'; '.join(faults)}")


CaseGradients = Callable[[Tensor | None, Tensor | None, Tensor], tuple[list[Tensor], Tensor]]


def case_gradients(module: nn.Module, task: Task) -> CaseGradients:
    """A function from a batch to each case's gradient, (B, ...) a parameter, and loss (B,)."""
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]

    def case_loss(weights: dict[str, Tensor], image: Tensor | None, row: Tensor | None, target: Tensor) -> Tensor:
        inputs = tuple(part if part is None else part.unsqueeze(0) for part in (image, row))
        loss = task.loss(functional_call(module, weights, inputs), target.unsqueeze(0))
        if loss.shape != (1,):
            raise PrivacyError(f"a loss of shape {tuple(loss.shape)} for one case is no sum over cases")
        return loss[0]

    def gradients(images: Tensor | None, table: Tensor | None, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        weights = {name: module.get_parameter(name).detach() for name in names}
        axes = (None, None if images is None else 0, None if table is None else 0, 0)
        found, losses = vmap(grad_and_value(case_loss), in_dims=axes)(weights, images, table, targets)
        return [found[name] for name in names], losses

    return gradients


class NoisedSums:
    """The sum of clipped gradients and losses of one step, in float64; nothing but its noised value comes out."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], mechanism: Mechanism, n_cases: int, source: NoiseSource
    ) -> None:
        norm = mechanism.clipping_norm * (1 - ROUNDING_MARGIN)
        self._parameters = parameters
        self._source = source
        self._gradient_norm = norm * math.sqrt(1 - LOSS_SHARE**2)
        self._loss_weight = norm * LOSS_SHARE / LOSS_CEILING
        self._expected = mechanism.sampling_rate * n_cases
        self._sizes = [parameter.numel() for parameter in parameters]
        n_values = sum(self._sizes) + 1
        std = mechanism.noise_multiplier * mechanism.clipping_norm
        self._std = inflated(std, sensitivity=mechanism.clipping_norm, n_values=n_values)
        self._total: npt.NDArray[np.float64] = np.zeros(n_values)

    def add(self, gradients: Sequence[Tensor], losses: Tensor) -> None:
        """Add the cases of a part of the sample: gradients (B, ...) a parameter, losses (B,).

        A case whose gradient is not finite adds none, and one whose loss is not finite the largest: to fail because of
        one case would tell of it. Where the training ran away, that is seen in the loss.
        """
        flat = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).double()
        flat = torch.where(flat.isfinite().all(dim=1, keepdim=True), flat, 0.0)
        losses = losses.double().nan_to_num(nan=LOSS_CEILING, posinf=LOSS_CEILING)
        norms = torch.linalg.vector_norm(flat, dim=1)
        factors = (self._gradient_norm / norms.clamp_min(1e-300)).clamp_max(1.0)
        self._total[:-1] += (factors @ flat).cpu().numpy()
        self._total[-1] += float(losses.clamp(0.0, LOSS_CEILING).sum()) * self._loss_weight

    def release(self) -> float:
        """Noise the sums, put the mean gradient into the parameters, begin anew; the mean loss a case."""
        noised = with_noise(self._total, std=self._std, source=self._source)
        self._total = np.zeros_like(self._total)
        mean = torch.from_numpy((noised[:-1] / self._expected).astype(np.float32))
        for parameter, part in zip(self._parameters, torch.split(mean, self._sizes), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.device)
        return float(noised[-1] / self._expected / self._loss_weight)


def _add_penalties(module: nn.Module, settings: TrainingConfig, penalty: Penalty | None) -> None:
    """Add the gradient of what depends on the weights alone: it tells nothing of any case."""
    objective = torch.zeros((), device=next(module.parameters()).device)
    if settings.l2 > 0:
        objective = objective + settings.l2 * dense_weight_penalty(module)
    if penalty is not None:
        objective = objective + penalty(module)
    if objective.requires_grad:
        parameters = trained_parameters(module)
        for parameter, part in zip(
            parameters, torch.autograd.grad(objective, parameters, allow_unused=True), strict=True
        ):
            if part is not None:
                gradient_of(parameter).add_(part)


def _augmentation_draws(source: NoiseSource) -> np.random.Generator:
    """Draws that nobody can repeat: with known ones, one case more would move the others in a way that is known."""
    words = (source.uniform(4) * 2.0**53).astype(np.uint64)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([int(word) for word in words])))
