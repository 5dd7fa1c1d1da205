"""Mirroring and turning of patches. Legend: ``B`` batch, ``C`` channels, ``D H W`` voxels.

All channels of a case are moved together, so the ROI channel stays on its image. Drawing (`Move`) is apart from
applying: with no move the patch comes back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

AXES = (0, 1, 2)


@dataclass(frozen=True)
class Move:
    """A symmetry of the grid.

    Parameters
    ----------
    order : tuple of int
        Which of the axes D, H, W (0, 1, 2) becomes the first, second and third.
    mirrored : tuple of int
        Axes, after the exchange, that run backwards.
    """

    order: tuple[int, ...] = AXES
    mirrored: tuple[int, ...] = ()

    def apply(self, patch: Tensor) -> Tensor:
        """``(C, D, H, W) -> (C, D, H, W)``."""
        moved = patch.permute(0, *(axis + 1 for axis in self.order))
        return moved.flip([axis + 1 for axis in self.mirrored]) if self.mirrored else moved


def draw_move(
    generator: np.random.Generator, shape: tuple[int, ...], *, kind: Literal["none", "flips", "flips_and_turns"]
) -> Move:
    """A move drawn evenly from those that keep ``shape`` (D, H, W); "none" draws nothing."""
    if kind == "none":
        return Move()
    orders = [o for o in permutations(AXES) if tuple(shape[axis] for axis in o) == shape]
    order = orders[int(generator.integers(len(orders)))] if kind == "flips_and_turns" else AXES
    return Move(order, tuple(axis for axis in AXES if generator.random() < 0.5))


def augmented(
    images: Tensor, generator: np.random.Generator, *, kind: Literal["none", "flips", "flips_and_turns"]
) -> Tensor:
    """Each case of ``images`` (B, C, D, H, W) under a move of its own."""
    if kind == "none":
        return images
    shape = tuple(images.shape[2:])
    return torch.stack([draw_move(generator, shape, kind=kind).apply(patch) for patch in images])
