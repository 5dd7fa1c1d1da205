"""What a weighted sum is taken of: standardised features, or random Fourier features of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import StatisticError
from common.rng import generator
from common.statistics.columns import Matrix, complete_columns, listed
from common.statistics.moments import moments
from common.statistics.procedure import Procedure
from common.tables import FeatureTable

MAX_RANDOM = 2_000
"""Random features: an answer holds as many numbers squared (32 MB)."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Standardised features, or random Fourier features of them.

    Parameters
    ----------
    names : tuple of str
    centres, scales : ndarray of float64, shape (n_features,)
    n_random : int
        0 for the standardised features themselves.
    gamma : float
        Of the kernel ``exp(-gamma |x - y|^2)`` that the random features approximate.
    draw : int
        Seed of the random features: all sites draw the same.
    """

    names: tuple[str, ...]
    centres: Matrix
    scales: Matrix
    n_random: int = 0
    gamma: float = 1.0
    draw: int = 0

    def __post_init__(self) -> None:
        for vector in (self.centres, self.scales):
            if vector.shape != (len(self.names),):
                raise ValueError(f"vector of shape {vector.shape} does not fit {len(self.names)} features")
        if not (self.scales > 0).all() or not self.gamma > 0:
            raise ValueError("scales and gamma must be positive")
        if not 0 <= self.n_random <= MAX_RANDOM:
            raise ValueError(f"at most {MAX_RANDOM} random features, got {self.n_random}")

    @property
    def n_outputs(self) -> int:
        return self.n_random or len(self.names)

    def apply(self, table: FeatureTable) -> Matrix:
        """Mapped features (n_cases, n_outputs)."""
        values: Matrix = (complete_columns(table, self.names) - self.centres) / self.scales
        if not self.n_random:
            return values
        rng = generator(self.draw, "fourier", self.n_random)
        frequencies = rng.standard_normal((len(self.names), self.n_random)) * math.sqrt(2 * self.gamma)
        phases = rng.uniform(0, 2 * math.pi, self.n_random)
        mapped: Matrix = math.sqrt(2 / self.n_random) * np.cos(values @ frequencies + phases)
        return mapped


def standardised_map(names: Sequence[str]) -> Procedure[FeatureMap]:
    """Means and standard deviations over all cases of all sites, as a map."""
    names = tuple(names)
    learned = (yield from moments(names)).require_present()
    scales = np.sqrt(learned.m2 / learned.present)
    constant = np.flatnonzero(scales <= 1e-12 * np.abs(learned.mean))
    if constant.size:
        raise StatisticError(f"constant features have no coefficient: {listed(names, constant)}")
    return FeatureMap(names, learned.mean, scales)
