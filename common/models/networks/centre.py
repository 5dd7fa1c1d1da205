"""Means that features are taken relative to, learned once from the cases and not by gradients.

In the first round of a centred model every site sends the mean of its cases' features at the initial weights, and no
other change (`client.training.centring`); the strategy averages them as it averages any update. From the second round
on the means stay. Under sample-level privacy that first round is one noised sum, as a step of training is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Centre(nn.Module):
    """``features (B, n) -> (B, n)``: less the mean, which is zero until it is learned."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features - self.mean


def centre_of(module: nn.Module) -> Centre:
    """The one centre of a model.

    Raises
    ------
    ValueError
        Where the model has none, or several.
    """
    found = [part for part in module.modules() if isinstance(part, Centre)]
    if len(found) != 1:
        raise ValueError(f"a centred model has one centre, got {len(found)}")
    return found[0]


def trained_parameters(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """What gradients change: all parameters but learned means."""
    return tuple(parameter for parameter in module.parameters() if parameter.requires_grad)
