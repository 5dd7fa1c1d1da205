"""Updates in few bits that add up under masks: one scale a tensor that all sites share, words of 16 bits.

A code with a scale of each site's own cannot be added up unseen. Here every site rounds to multiples of the same steps,
up or down at random, to whole numbers of at most ``levels`` either way, and keeps what that leaves out for its next
update (`common.compression`)::

    site         v = weight * delta + e      sends k = round(v / step), |k| <= levels      e' = v - step * k
    all          sum of k modulo 2^16 under masks, times step

``levels = (2^15 - 1) // n_sites``, so ``|sum of k| <= n_sites * levels <= 2^15 - 1``: **no sum can wrap around**,
whatever the sites send that follow the protocol. That is 8 bits of each of 258 sites, and more where they are fewer:
14 bits of four. (A sum of n numbers of 8 bits needs ``8 + ceil(log2 n)``; words of 16 hold it for 256.)

The step of a tensor follows from what all know: the sum of the round before (`next_bounds`), which the coordinator
announces within the question that all sites sign. A value beyond the bound sends the bound, and the rest later. Bounds
tell nobody anything new, and whoever lies about them gets a coarser or a later sum of the same sites, nothing else.

Under site-level privacy the step follows from the clipping norm instead (`private_grid`): no round looks at another.

Laws: the sum of masked words is the sum of rounded values, exactly; the expected code of a value within the bound is
the value; codes and residuals of all rounds add up to all deltas; a rounded update is never longer than
`sensitivity_after_rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import PrivacyError
from common.privacy.discrete_gaussian import DistributedNoise, Shares, noise_in_steps

Words = npt.NDArray[np.uint16]
Vector = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]

ROOM = 2**15 - 1
"""Largest size of a sum in a signed word of 16 bits."""
LEAST_LEVELS = 127
"""A site has eight bits at least."""
MOST_SITES = ROOM // LEAST_LEVELS

HEADROOM = 4.0
"""A bound over the typical size of the largest value in the round before."""
LEAST_SHARE_OF_BOUNDS = 2.0**-10
"""No tensor's bound is smaller than this part of the largest."""

REACH = 8
"""Standard deviations of a share of noise that fit a word beside the update: more occurs once in 10^15 numbers."""
MOST_TRIES = 200
"""Of rounding within a norm; each fails with a probability below 0.61, and in practice hardly ever."""


@dataclass(frozen=True)
class SharedGrid:
    """Steps that all sites of a cohort round to.

    Parameters
    ----------
    n_sites : int
        Size of the cohort.
    sizes : tuple of int
        Number of values of each tensor, in the order of the model.
    bounds : tuple of float
        Largest size of a value of one site in each; where it is 0 only zeros are sent.
    """

    n_sites: int
    sizes: tuple[int, ...]
    bounds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.n_sites <= MOST_SITES:
            raise PrivacyError(f"{self.n_sites} sites, 16 bits have room for {MOST_SITES}")
        if len(self.bounds) != len(self.sizes) or not all(0 <= bound < math.inf for bound in self.bounds):
            raise PrivacyError(f"{len(self.bounds)} bounds for {len(self.sizes)} tensors, or not finite")

    @property
    def levels(self) -> int:
        """Largest whole number that a site sends."""
        return ROOM // self.n_sites

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def steps(self) -> Vector:
        """Of each value, shape (n,)."""
        return np.repeat(np.array(self.bounds, dtype=np.float64) / self.levels, self.sizes)

    def encode(self, values: Vector, generator: np.random.Generator) -> Words:
        """Words of ``values`` (n,); beyond a bound that of the bound.

        Raises
        ------
        PrivacyError
            If a value is not finite, or there are not as many as the grid has.
        """
        if values.shape != (self.size,) or not np.isfinite(values).all():
            raise PrivacyError(f"values of shape {values.shape} for {self.size}, or not finite")
        steps = self.steps
        scaled = np.divide(values, steps, out=np.zeros(values.shape), where=steps > 0)
        np.clip(scaled, -self.levels, self.levels, out=scaled)
        return _words(_rounded(scaled, generator))

    def decode(self, total: Words) -> Vector:
        """Sums of values from sums of words; of one site's words what it sent."""
        return total.view(np.int16) * self.steps

    def send(
        self, values: Vector, residual: Single | None, generator: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], Single]:
        """Octets of the words of ``values`` together with what former ones left out, and what these leave out."""
        total = values if residual is None else values + residual
        words = self.encode(total, generator)
        return words.view(np.uint8), (total - self.decode(words)).astype(np.float32)


def words_of(data: npt.NDArray[np.generic], *, size: int) -> Words:
    """The words of octets that `SharedGrid.send` or `PrivateGrid.send` wrote."""
    if data.dtype != np.uint8 or data.shape != (2 * size,):
        raise PrivacyError(f"a code of {data.dtype} and shape {data.shape}, expected {2 * size} octets")
    return data.view(np.uint16)


def next_bounds(largest: Sequence[float], former: Sequence[float], *, weight: float, n_sites: int) -> tuple[float, ...]:
    """Bounds of the round after one whose mean update is known; none after an update of zeros.

    Parameters
    ----------
    largest : sequence of float
        Largest size of a value of the mean update, for each tensor.
    former : sequence of float
        Bounds of the round, or none.
    weight : float
        Of all sites together in the mean.

    Notes
    -----
    If the sites' values had nothing in common, the largest of their sum would be about ``sqrt(n_sites)`` times that of
    one; if they were equal, ``n_sites`` times. The first is the safer guess. A bound at most halves from round to
    round, because a sum can be small by chance; where it was too small, the sum it cut off still makes it grow.
    """
    sums = [HEADROOM * weight * value / math.sqrt(n_sites) for value in largest]
    if not any(sums):
        return ()
    floor = LEAST_SHARE_OF_BOUNDS * max(sums)
    before = former or [0.0] * len(sums)
    return tuple(max(new, old / 2, floor) for new, old in zip(sums, before, strict=True))


def sensitivity_after_rounding(norm: float, size: int) -> float:
    """Largest L2 norm of whole numbers that `round_within` makes of ``size`` values of L2 norm ``norm``, in steps.

    Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), definition of the conditional rounding and theorem 1, with
    ``beta = exp(-1/2)``: the smaller of ``norm + sqrt(d)`` and ``sqrt(norm^2 + d / 4 + norm + sqrt(d) / 2)``.

    Proof. The first: each value moves by less than one step. The second holds of every result because rounding is
    repeated until it does. (It soon does: the expected squared norm is ``norm^2 + sum f (1 - f) <= norm^2 + d / 4`` for
    fractions ``f``, and by their lemma it is exceeded by ``norm + sqrt(d) / 2`` with a probability below ``beta``.)
    With or without one site the whole sum of whole numbers differs by that site's vector, so by no more than this
    norm, whatever the others send or remember and whatever was drawn in rounding; a discrete Gaussian on the sum is
    calibrated to it, and taking the sum modulo 2^16 afterwards costs nothing.
    """
    return min(norm + math.sqrt(size), math.sqrt(norm**2 + size / 4 + norm + math.sqrt(size) / 2))


def round_within(scaled: Vector, *, norm: float, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """``scaled`` (n,), of L2 norm up to ``norm``, rounded up or down at random to within the sensitivity.

    Raises
    ------
    PrivacyError
        If the values are longer than that.
    """
    most = sensitivity_after_rounding(norm, scaled.size) ** 2
    for _ in range(MOST_TRIES):
        rounded = _rounded(scaled, generator).astype(np.int64)
        if int(np.dot(rounded, rounded)) <= most:
            return rounded
    raise PrivacyError(f"an update of {np.linalg.norm(scaled):.6g} steps was not cut to {norm:.6g}")


@dataclass(frozen=True)
class PrivateGrid:
    """A grid for updates of a known L2 norm, and the noise in their sum.

    Parameters
    ----------
    norm : float
        The clipping norm in steps.
    """

    grid: SharedGrid
    norm: float
    noise: DistributedNoise

    def send(self, values: Vector, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Octets of the words of ``values`` (n,), cut to the norm and rounded to within the sensitivity; bare of noise.

        Raises
        ------
        PrivacyError
            If a value is not finite.
        """
        if values.shape != (self.grid.size,) or not np.isfinite(values).all():
            raise PrivacyError(f"values of shape {values.shape} for {self.grid.size}, or not finite")
        scaled = values / self.grid.steps
        length = float(np.linalg.norm(scaled))
        if length > self.norm:
            scaled *= self.norm * (1 - 1e-12) / length
        return _words(round_within(scaled, norm=self.norm, generator=generator)).view(np.uint8)


def private_grid(
    *, n_sites: int, size: int, clipping_norm: float, noise_multiplier: float, shares: Shares
) -> PrivateGrid:
    """The finest grid whose words hold an update of the norm and `REACH` standard deviations of a share of the noise.

    Raises
    ------
    PrivacyError
        Where 16 bits have no room for both.
    """
    levels = SharedGrid(n_sites, (size,), (1.0,)).levels

    def noise(norm: float) -> DistributedNoise:
        sensitivity = sensitivity_after_rounding(norm, size)
        return noise_in_steps(noise_multiplier=noise_multiplier, sensitivity=sensitivity, size=size, shares=shares)

    def fits(norm: float) -> bool:
        total = math.ceil((noise_multiplier * sensitivity_after_rounding(norm, size)) ** 2)
        return norm + 1 + REACH * math.sqrt(shares.variance(total)) <= levels

    low, high = 1.0, float(levels)
    if not fits(low):
        raise PrivacyError(
            f"16 bits leave no room for noise of {noise_multiplier:.3g} in {size} values of {n_sites} sites: use "
            'federated.compression = { kind = "none" }'
        )
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    bound = levels * clipping_norm / low
    return PrivateGrid(SharedGrid(n_sites, (size,), (bound,)), low, noise(low))


def _rounded(scaled: Vector, generator: np.random.Generator) -> Vector:
    """Whole numbers whose expected values are those of ``scaled``."""
    low = np.floor(scaled)
    low += generator.random(scaled.shape) < scaled - low
    return low


def _words(whole: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> Words:
    return whole.astype(np.int16).view(np.uint16)
