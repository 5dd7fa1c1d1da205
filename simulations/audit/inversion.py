"""Gradient inversion: from what a hospital's update gives away back to the patches that it was computed on.

Legend: ``B`` cases, ``C`` channels, ``D H W`` voxels, ``K`` components of the prior.

The attacker looks for patches whose gradient points where the hospital's did (Geiping et al. 2020, "Inverting
gradients", equation 4; here the cosine distance layer by layer, so that early layers, which see voxels, count as much
as the head). Over free voxels that fails on this network, whose pooling over the ROI and the maximum forget where
things lie: noise fits the gradient as well as anatomy. So patches are sought among what anatomy looks like: principal
components of patches that the attacker holds, for example of hospitals of its own (the generative prior of Jeon et al.
2021, "Gradient inversion with generative image prior", in its linear form), with a standard normal prior on their
coefficients.

The search starts at those of the attacker's own patches whose gradients together fit best. An update of several cases
is the mean of their gradients, so these are found one slot at a time with the others held, as in matching pursuit
(Mallat and Zhang 1993), and then two at a time until no pair is better (`matching_examples`): gradients of like patches
are alike, and single changes end at batches that only look right. Random draws of whole batches are all but never near.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.training.dp_sgd import case_gradients
from client.training.loop import Task, reproducible
from client.training.optimisers import Adam
from simulations.audit.similarity import Patch

PRIOR_WEIGHT = 0.01
"""Of the mean squared coefficient beside a cosine distance; larger ones pull to the mean image."""
LEARNING_RATE = 0.05

PURSUITS, SWEEPS = 4, 12
"""Beginnings of the search for a start, and rounds through all slots of each."""
LARGEST_TABLE = 1 << 26
"""Values of one table of gradients: for large models fewer patches are tried."""
CASES_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Prior:
    """What the attacker knows of such images.

    Parameters
    ----------
    mean : Tensor, shape (C, D, H, W)
    components : Tensor, shape (K, C * D * H * W)
        Principal directions, each scaled to its standard deviation.
    examples : Tensor, shape (n, K)
        Coefficients of the attacker's own patches.
    """

    mean: Tensor
    components: Tensor
    examples: Tensor

    def patches(self, coefficients: Tensor) -> Tensor:
        """Patches (B, C, D, H, W) of coefficients (B, K), within the values that patches have."""
        flat = self.mean.flatten() + coefficients @ self.components
        return flat.reshape(-1, *self.mean.shape).clamp(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Patches that explain an update.

    Parameters
    ----------
    patches : ndarray of float32, shape (B, C, D, H, W)
        In no order that means anything.
    distance : float
        Mean cosine distance of the layers' gradients that is left.
    """

    patches: Patch
    distance: float


def learn_prior(patches: npt.NDArray[np.float32], *, n_components: int = 128, seed: int = 0) -> Prior:
    """Principal components of patches (n, C, D, H, W) and their mirror images.

    Raises
    ------
    ValueError
        Where there are fewer than two patches.
    """
    if len(patches) < 2:
        raise ValueError(f"a prior needs at least 2 patches, got {len(patches)}")
    examples = _mirrored(torch.from_numpy(patches))
    mean = examples.mean(dim=0)
    centred = (examples - mean).flatten(1)
    generator = torch.Generator().manual_seed(seed)
    width = min(n_components, *centred.shape)
    sketch = centred @ torch.randn(centred.shape[1], min(2 * width, *centred.shape), generator=generator)
    for _ in range(3):  # power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4)
        sketch = torch.linalg.qr(centred @ (centred.T @ sketch)).Q
    _, values, directions = torch.linalg.svd(sketch.T @ centred, full_matrices=False)
    kept = values[:width] > 1e-5 * values[0]
    spread = values[:width][kept] / len(examples) ** 0.5
    components = directions[:width][kept]
    return Prior(mean, components * spread[:, None], (centred @ components.T) / spread)


def gradients(module: nn.Module, task: Task, images: Tensor, table: Tensor | None, targets: Tensor) -> list[Tensor]:
    """The gradient of the mean loss, one tensor a parameter, that can itself be differentiated."""
    loss = task.loss(module(images, table), targets).mean()
    return list(torch.autograd.grad(loss, list(module.parameters()), create_graph=True))


def invert(
    module: nn.Module,
    task: Task,
    observed: Sequence[Tensor],
    targets: Tensor,
    prior: Prior,
    *,
    table: Tensor | None = None,
    steps: int = 400,
    starts: int = 240,
    seed: int = 0,
) -> Reconstruction:
    """Patches whose gradient points along ``observed``.

    Parameters
    ----------
    module : nn.Module
        With the parameters that the hospital was sent.
    observed : sequence of Tensor
        The hospital's gradient, one tensor a parameter of the module.
    targets : Tensor, shape (B, ...)
        The outcomes, which the attacker is taken to know: at one case the sign of the head's gradient tells them.
    table : Tensor, shape (B, F), optional
        Of a model that also reads a table.
    steps, starts : int
        Optimisation steps, and how many of the attacker's own patches are tried for each case.
    """
    generator = torch.Generator().manual_seed(seed)
    module.eval()

    def distance(coefficients: Tensor) -> Tensor:
        return _distance(gradients(module, task, prior.patches(coefficients), table, targets), observed)

    with reproducible():
        start = matching_examples(
            module, task, observed, targets, prior, table=table, starts=starts, generator=generator
        )
        sought = nn.Parameter(start.clone())
        optimiser = Adam([sought])
        best, best_distance = start, float("inf")
        for step in range(steps):
            sought.grad = None
            left = distance(sought)
            if float(left.detach()) < best_distance:
                best, best_distance = sought.detach().clone(), float(left.detach())
            objective = left + PRIOR_WEIGHT * sought.square().mean()
            (sought.grad,) = torch.autograd.grad(objective, [sought])
            optimiser.step(LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps)))
        last = float(distance(sought).detach())
    chosen, left_over = (sought.detach(), last) if last <= best_distance else (best, best_distance)
    return Reconstruction(prior.patches(chosen).numpy(), left_over)


def matching_examples(
    module: nn.Module,
    task: Task,
    observed: Sequence[Tensor],
    targets: Tensor,
    prior: Prior,
    *,
    table: Tensor | None = None,
    starts: int,
    generator: torch.Generator,
) -> Tensor:
    """The attacker's patches (as coefficients, (B, K)) whose gradients together come closest to ``observed``.

    Each layer counts by its distance over its own size; of a single case, whose gradient is no sum, by the angle alone.
    Slots are filled and changed one after the other, then two and two, until none changes, from the empty batch and
    from random ones; the closest end is taken.
    """
    sizes = [gradient.numel() for gradient in observed]
    n_tried = max(1, min(starts, len(prior.examples), LARGEST_TABLE // sum(sizes)))
    tried = prior.examples[torch.randperm(len(prior.examples), generator=generator)[:n_tried]]
    norms = torch.stack([gradient.norm() + 1e-12 for gradient in observed])
    whole = torch.cat([gradient.flatten() for gradient in observed]) * len(targets)  # the sum over cases
    sought = _in_units(whole[None], sizes, norms)[0]
    tables: list[Tensor] = []
    keys: list[object] = []
    of_slot: list[int] = []
    for slot, target in enumerate(targets):
        key = target.item() if table is None else slot  # of images alone, cases of one outcome are tried alike
        if key not in keys:
            row = None if table is None else table[slot : slot + 1]
            found = _gradient_table(module, task, prior.patches(tried), target, row)
            tables.append(_in_units(found, sizes, norms if len(targets) > 1 else None))
            keys.append(key)
        of_slot.append(keys.index(key))
    along = [-2 * (table @ sought) for table in tables]
    products = {(i, j): tables[i] @ tables[j].T for i, j in itertools.product(range(len(tables)), repeat=2)}
    fit = _Fit([along[i] for i in of_slot], [[products[i, j] for j in of_slot] for i in of_slot])
    ends = [_pursued(fit, generator, is_random=bool(number)) for number in range(PURSUITS)]
    return tried[min(ends)[1]]


def _in_units(flat: Tensor, sizes: Sequence[int], norms: Tensor | None) -> Tensor:
    """Gradients (n, P) with each layer divided by its part of ``norms``, or by its own norm where there are none."""
    parts = torch.split(flat, list(sizes), dim=1)
    units = [part.norm(dim=1, keepdim=True) + 1e-12 for part in parts] if norms is None else list(norms)
    return torch.cat([part / unit for part, unit in zip(parts, units, strict=True)], dim=1)


def _gradient_table(module: nn.Module, task: Task, patches: Tensor, target: Tensor, row: Tensor | None) -> Tensor:
    """Gradients (n, P) of single cases with these patches, all with one outcome and row."""
    gradient_of = case_gradients(module, task)
    parts: list[Tensor] = []
    for some in torch.split(patches, CASES_AT_ONCE):
        rows = None if row is None else row.expand(len(some), -1)
        found, _ = gradient_of(some, rows, target.expand(len(some)))
        parts.append(torch.cat([gradient.flatten(1) for gradient in found], dim=1).detach())
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class _Fit:
    """How far sums of gradients are from the one that is sought: ``|g|^2 - 2 g.s``, by products of pairs alone.

    Parameters
    ----------
    along : list of Tensor, shape (n,)
        Of each slot, -2 times the product of its gradients with the one that is sought.
    products : list of list of Tensor, shape (n, n)
        Of each pair of slots, of their gradients.
    """

    along: list[Tensor]
    products: list[list[Tensor]]

    def of_slot(self, slot: int, chosen: Sequence[int | None], *, besides: int | None = None) -> Tensor:
        """What each choice in a slot costs, shape (n,), with the others as chosen."""
        cost = self.along[slot] + self.products[slot][slot].diagonal()
        for other, row in enumerate(chosen):
            if row is not None and other not in (slot, besides):
                cost = cost + 2 * self.products[slot][other][:, row]
        return cost

    def of_pair(self, one: int, other: int, chosen: Sequence[int | None]) -> Tensor:
        """What each choice in two slots costs, shape (n, n)."""
        first, second = (self.of_slot(a, chosen, besides=b) for a, b in ((one, other), (other, one)))
        return first[:, None] + second[None] + 2 * self.products[one][other]

    def total(self, chosen: Sequence[int]) -> float:
        each = sum(float(self.along[slot][row]) for slot, row in enumerate(chosen))
        pairs = itertools.product(enumerate(chosen), repeat=2)
        return each + sum(float(self.products[a][b][i, j]) for (a, i), (b, j) in pairs)


def _pursued(fit: _Fit, generator: torch.Generator, *, is_random: bool) -> tuple[float, list[int]]:
    """The distance that is left, and what is chosen in each slot: no change of one or of two of them is closer."""
    slots = range(len(fit.along))
    chosen: list[int | None] = [None] * len(slots)
    if is_random:
        chosen = torch.randint(len(fit.along[0]), (len(slots),), generator=generator).tolist()
    for _ in range(SWEEPS):
        before = list(chosen)
        for slot in torch.randperm(len(slots), generator=generator).tolist():
            chosen[slot] = int(fit.of_slot(slot, chosen).argmin())
        if chosen == before:
            break
    for _ in range(SWEEPS):
        before = list(chosen)
        for one, other in itertools.combinations(slots, 2):
            cost = fit.of_pair(one, other, chosen)
            chosen[one], chosen[other] = divmod(int(cost.argmin()), cost.shape[1])
        if chosen == before:
            break
    rows = [row for row in chosen if row is not None]
    return fit.total(rows), rows


def _distance(found: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """Mean cosine distance over the parameters, 0 to 2."""
    parts = [1 - (a * b).sum() / (a.norm() * b.norm() + 1e-12) for a, b in zip(found, observed, strict=True)]
    return torch.stack(parts).mean()


def _mirrored(patches: Tensor) -> Tensor:
    """The patches and their mirror images along every set of axes: a prior of eight times as many."""
    axes = [chosen for n in range(4) for chosen in itertools.combinations((2, 3, 4), n)]
    return torch.cat([torch.flip(patches, chosen) if chosen else patches for chosen in axes])
