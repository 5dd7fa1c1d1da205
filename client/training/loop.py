"""The one training loop: every model, every task, every strategy. Legend: ``N`` cases, ``C`` channels, ``F`` columns.

Same module, data, settings and generator give bit-identical parameters in any process on one kind of CPU: one thread,
no draw but from the generator, no state kept between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.training.augment import augmented
from client.training.optimisers import Adam, GradientDescent, Optimiser, clip_gradients
from client.training.time_slices import long_slices
from common.errors import StatisticError
from common.models.networks.centre import trained_parameters
from common.tasks import TrainingConfig

CPU = torch.device("cpu")

Penalty = Callable[[nn.Module], Tensor]
"""A scalar added to every batch's objective: how FedProx and its kind enter."""

Progress = Callable[[int, float], None]
"""Called after an epoch (1, 2, ...) with the mean training loss a case."""


class Task(Protocol):
    """What the loop needs of a task: a loss a case."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class ChosenImages:
    """Some of a site's images, taken out batch by batch: a round holds no copy of them.

    Parameters
    ----------
    whole : Tensor of float32, shape (M, C, D, H, W)
    rows : Tensor of int64, shape (N,)
        Which of the M each case has.
    """

    whole: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, cases: Tensor) -> Tensor:
        return self.whole[self.rows[cases]]


@dataclass(frozen=True, eq=False)
class ModelData:
    """What a model looks at.

    Parameters
    ----------
    images : Tensor of float32, shape (N, C, D, H, W), or ChosenImages, or None
        The last channel is the ROI.
    table : Tensor of float32, shape (N, F), or None
    """

    images: Tensor | ChosenImages | None
    table: Tensor | None

    def __post_init__(self) -> None:
        if self.images is None and self.table is None:
            raise ValueError("a model needs images or a table")
        if self.images is not None and self.table is not None and len(self.images) != len(self.table):
            raise ValueError(f"{len(self.images)} images for {len(self.table)} rows of the table")

    @property
    def n_cases(self) -> int:
        return len(self.images) if self.images is not None else len(self.table) if self.table is not None else 0


@dataclass(frozen=True, eq=False)
class TrainingData(ModelData):
    """Inputs and targets of a site's training cases; ``targets`` as the task's ``targets`` gave them, (N, ...)."""

    targets: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.targets) != self.n_cases:
            raise ValueError(f"{len(self.targets)} targets for {self.n_cases} cases")
        if self.n_cases == 0:
            raise ValueError("no cases to train on")


@dataclass(frozen=True)
class Position:
    """Where in the study this training stands; the learning rate follows the whole study.

    Parameters
    ----------
    round_number : int
        1 to ``rounds``.
    rounds : int
    """

    round_number: int
    rounds: int

    def __post_init__(self) -> None:
        if not 1 <= self.round_number <= self.rounds:
            raise ValueError(f"round {self.round_number} of {self.rounds}")

    def done(self, share_of_round: float) -> float:
        """Share of the study that is behind, where ``share_of_round`` (0 to 1) of this round is."""
        return (self.round_number - 1 + share_of_round) / self.rounds


@dataclass(frozen=True)
class TrainingResult:
    """What a round's training reports.

    Parameters
    ----------
    train_loss : tuple of float
        Mean loss a case in each epoch, without penalties, as the parameters were when each batch came.
    n_cases : int
    """

    train_loss: tuple[float, ...]
    n_cases: int


def train(
    module: nn.Module,
    data: TrainingData,
    *,
    task: Task,
    settings: TrainingConfig,
    position: Position,
    generator: np.random.Generator,
    penalty: Penalty | None = None,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> TrainingResult:
    """Train ``module`` in place for one round of local epochs.

    Raises
    ------
    StatisticError
        If the loss is no finite number: the training ran away, and its parameters must not leave the site.
    """
    module.to(device).train()
    optimiser = new_optimiser(module, settings)
    parameters = trained_parameters(module)
    losses: list[float] = []
    with reproducible(), long_slices():
        for epoch in range(settings.local_epochs):
            batches = _batches(data.n_cases, settings.batch_size, generator)
            total = 0.0
            for number, rows in enumerate(batches):
                done = position.done((epoch + number / len(batches)) / settings.local_epochs)
                batch = _batch(data, rows, settings=settings, generator=generator, device=device)
                mean = _step(module, parameters, batch, task, settings, penalty, optimiser, settings.rate(done))
                total += mean * len(rows)
            losses.append(total / data.n_cases)
            if progress is not None:
                progress(epoch + 1, losses[-1])
    return TrainingResult(tuple(losses), data.n_cases)


def predict(
    module: nn.Module, data: ModelData, *, batch_size: int = 32, device: torch.device = CPU
) -> npt.NDArray[np.float32]:
    """Logits (N, K), without augmentation; the module's mode is set to evaluation."""
    module.to(device).eval()
    parts: list[npt.NDArray[np.float32]] = []
    with torch.no_grad(), reproducible():
        for start in range(0, data.n_cases, batch_size):
            rows = torch.arange(start, min(start + batch_size, data.n_cases))
            logits = module(take_rows(data.images, rows, device), take_rows(data.table, rows, device))
            parts.append(logits.to("cpu", torch.float32).numpy())
    if not parts:
        raise ValueError("no cases to predict")
    return np.concatenate(parts)


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread (sums in one order) and, on a GPU, deterministic convolutions in full float32; restored after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)


def dense_weight_penalty(module: nn.Module) -> Tensor:
    """Half the squared norm of the dense layers' weights, without biases; zero where there are none."""
    squares = [layer.weight.square().sum() for layer in module.modules() if isinstance(layer, nn.Linear)]
    return 0.5 * torch.stack(squares).sum() if squares else torch.zeros(())


def _step(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    batch: TrainingData,
    task: Task,
    settings: TrainingConfig,
    penalty: Penalty | None,
    optimiser: Optimiser,
    learning_rate: float,
) -> float:
    for parameter in parameters:
        parameter.grad = None
    loss = task.loss(module(batch.images, batch.table), batch.targets).mean()
    mean = float(loss.detach())
    if not np.isfinite(mean):
        raise StatisticError(f"the training loss became {mean} at learning rate {learning_rate:.3g}")
    objective = loss
    if settings.l2 > 0:
        objective = objective + settings.l2 * dense_weight_penalty(module)
    if penalty is not None:
        objective = objective + penalty(module)
    objective.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    if settings.gradient_clip is not None:
        clip_gradients(parameters, settings.gradient_clip)
    optimiser.step(learning_rate)
    return mean


def new_optimiser(module: nn.Module, settings: TrainingConfig) -> Optimiser:
    """The optimiser that the settings name, with a state of its own for one round."""
    parameters = trained_parameters(module)
    if settings.optimiser == "adam":
        return Adam(parameters)
    return GradientDescent(parameters, momentum=settings.momentum)


def _batches(n_cases: int, batch_size: int, generator: np.random.Generator) -> list[Tensor]:
    """A random order of all cases in equal batches: a last batch of one case would weigh as much as a full one."""
    order = generator.permutation(n_cases)
    return [torch.from_numpy(rows) for rows in np.array_split(order, -(-n_cases // batch_size))]


def _batch(
    data: TrainingData,
    rows: Tensor,
    *,
    settings: TrainingConfig,
    generator: np.random.Generator,
    device: torch.device,
) -> TrainingData:
    images = take_rows(data.images, rows, device)
    if images is not None:
        images = augmented(images, generator, kind=settings.augment)
    return TrainingData(images, take_rows(data.table, rows, device), data.targets[rows].to(device))


def take_rows(tensor: Tensor | ChosenImages | None, rows: Tensor, device: torch.device) -> Tensor | None:
    """Some cases of an input that a model may not have."""
    return None if tensor is None else tensor[rows].to(device)
