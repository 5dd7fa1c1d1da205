"""Seeded predictions with a known strength, and their splits into sites."""

from __future__ import annotations

import numpy as np

from common.evaluation.scores import ScoreSums


def binary(n=400, *, seed=0, strength=1.2, prevalence=0.4, spread=1.5, digits=None):
    """Probabilities (n, 2) and labels (n,), miscalibrated on purpose."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(np.int64)
    labels[:2] = 0, 1
    logits = spread * (rng.normal(size=n) + strength * (labels - 0.5))
    p = 1 / (1 + np.exp(-logits))
    if digits is not None:
        p = np.round(p, digits)
    return np.column_stack([1 - p, p]), labels


def several(n=600, n_classes=4, *, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    labels[:n_classes] = np.arange(n_classes)
    logits = rng.normal(size=(n, n_classes)) + 1.5 * (labels[:, None] == np.arange(n_classes))
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), labels


def dealt(n, n_sites, *, seed=0):
    """Row indices of each site."""
    site = np.random.default_rng(seed + 100_000).integers(0, n_sites, n)
    return [np.flatnonzero(site == s) for s in range(n_sites)]


def merged(probabilities, labels, n_sites, *, seed=0, minimum_cases=1):
    return ScoreSums.merge(
        [
            ScoreSums.summarise(probabilities[rows], labels[rows], minimum_cases=minimum_cases)
            for rows in dealt(len(labels), n_sites, seed=seed)
        ]
    )
