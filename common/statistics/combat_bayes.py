"""Empirical Bayes of ComBat: from each batch's location and scale to their shrunken values.

Johnson, Li and Rabinovic 2007, "Adjusting batch effects in microarray expression data using empirical Bayes methods",
Biostatistics 8(1); Fortin et al. 2017, NeuroImage 161. Everything here works on merged sums alone: with the batch mean
``m`` of the standardised data, ``sum((s - g)^2) = sum((s - m)^2) + n (m - g)^2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import StatisticError
from common.statistics.columns import Matrix

Method = Literal["parametric", "nonparametric", "none"]

CONVERGED = 1e-4
"""Relative change at which the parametric iteration stops, as in neuroCombat and sva."""

MAX_ITERATIONS = 10_000
BLOCK = 256
"""Features whose non-parametric weights are in memory at once."""


@dataclass(frozen=True, eq=False)
class BatchEstimates:
    """One batch before shrinkage.

    Parameters
    ----------
    n_cases : int
    gamma_hat : ndarray of float64, shape (n_features,)
        Mean of the standardised data.
    delta_hat : ndarray of float64, shape (n_features,)
        Variance of the standardised data (ddof 1); 1 where only the mean is adjusted.
    scatter : ndarray of float64, shape (n_features,)
        Sum of squared distances of the standardised data to ``gamma_hat``.
    """

    n_cases: int
    gamma_hat: Matrix
    delta_hat: Matrix
    scatter: Matrix


@dataclass(frozen=True)
class Priors:
    """Normal prior of locations (mean, variance), inverse gamma prior of scales (shape, rate); 0 where unused."""

    gamma_bar: float = 0.0
    t2: float = 0.0
    a_prior: float = 0.0
    b_prior: float = 0.0


def priors(batch: BatchEstimates, *, mean_only: bool) -> Priors:
    """Moments over the features of one batch."""
    if batch.gamma_hat.size < 2:
        raise StatisticError("empirical Bayes borrows strength over features and needs at least 2; use method 'none'")
    gamma_bar, t2 = float(np.mean(batch.gamma_hat)), float(np.var(batch.gamma_hat, ddof=1))
    if mean_only:
        return Priors(gamma_bar, t2)
    mean, variance = float(np.mean(batch.delta_hat)), float(np.var(batch.delta_hat, ddof=1))
    if variance == 0.0:
        raise StatisticError("the scales of a batch do not differ between features: no prior can be learned from them")
    return Priors(gamma_bar, t2, (2 * variance + mean**2) / variance, (mean * variance + mean**3) / variance)


def parametric(batch: BatchEstimates, prior: Priors, *, mean_only: bool) -> tuple[Matrix, Matrix]:
    """Posterior location and scale, shape (n_features,) each.

    The stopping rule is that of neuroCombat to the letter (the change of a location is divided by the signed location,
    so only positive ones count), because stopping one step earlier or later moves the result by up to 1e-4.
    """
    if mean_only:
        ones = np.ones_like(batch.gamma_hat)
        return _posterior_mean(batch.gamma_hat, prior, 1.0, ones), ones
    n = float(batch.n_cases)
    gamma, delta = batch.gamma_hat, batch.delta_hat
    for _ in range(MAX_ITERATIONS):
        gamma_new = _posterior_mean(batch.gamma_hat, prior, n, delta)
        squares = batch.scatter + n * (batch.gamma_hat - gamma_new) ** 2
        delta_new = (0.5 * squares + prior.b_prior) / (n / 2.0 + prior.a_prior - 1.0)
        moved = gamma != 0.0
        change = max(
            float(np.max(np.abs(gamma_new - gamma)[moved] / gamma[moved], initial=0.0)),
            float(np.max(np.abs(delta_new - delta) / delta)),
        )
        gamma, delta = gamma_new, delta_new
        if not change > CONVERGED:
            return gamma, delta
    raise StatisticError(f"empirical Bayes did not settle in {MAX_ITERATIONS} steps")


def nonparametric(batch: BatchEstimates) -> tuple[Matrix, Matrix]:
    """Location and scale as means over the other features' pairs, weighted by the likelihood of the data under each.

    The weights are taken in logarithms; where neuroCombat's likelihoods underflow to 0/0 the result here stays finite.
    """
    n_features = batch.gamma_hat.size
    if n_features < 2:
        raise StatisticError("non-parametric empirical Bayes needs at least 2 features")
    n, gamma, delta = batch.n_cases, batch.gamma_hat, batch.delta_hat
    log_norm = -0.5 * n * np.log(2 * np.pi * delta)
    gamma_star, delta_star = np.empty(n_features), np.empty(n_features)
    for start in range(0, n_features, BLOCK):
        block = np.arange(start, min(start + BLOCK, n_features))
        squares = batch.scatter[block, None] + n * (gamma[block, None] - gamma[None, :]) ** 2
        log_weight = log_norm - squares / (2 * delta)
        log_weight[np.arange(block.size), block] = -np.inf
        weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        total = weight.sum(axis=1)
        gamma_star[block] = weight @ gamma / total
        delta_star[block] = weight @ delta / total
    return gamma_star, delta_star


def shrink(batch: BatchEstimates, method: Method, mean_only: bool) -> tuple[Priors, Matrix, Matrix]:
    """Priors, location and scale of one batch by the study's method."""
    if method == "none":
        return Priors(), batch.gamma_hat, batch.delta_hat
    prior = priors(batch, mean_only=mean_only)
    if method == "parametric":
        return prior, *parametric(batch, prior, mean_only=mean_only)
    return prior, *nonparametric(batch)


def _posterior_mean(gamma_hat: Matrix, prior: Priors, n: float, delta: Matrix) -> Matrix:
    return (prior.t2 * n * gamma_hat + delta * prior.gamma_bar) / (prior.t2 * n + delta)
