"""Membership inference: was this case trained on? Two attackers, one that looks at the loss alone, one with shadows.

The second is the likelihood-ratio attack (LiRA; Carlini et al. 2022, algorithm 1): for each case, Gaussians are
fitted to its score over trainings with it and without it, and the ratio of both densities at the attacked model's score
speaks for or against membership. With few shadows the variances are taken together over the cases (section VI.C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from simulations.audit.intervals import AttackRate, Curve, Interval, Scores, rate_at, roc
from simulations.audit.shadows import Mask, Observation

LEAST_SHADOWS_FOR_OWN_VARIANCE = 64
"""Below it a case's own variance is an estimate from too few trainings."""

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack found against the study's own model, and against all shadows in turn.

    Parameters
    ----------
    rate : AttackRate
        Against the study's own model: its training cases against its held-out ones.
    over_shadows : float
        The same rate, as a mean over the shadows, each attacked with the help of the others.
    over_shadows_interval : Interval
        Bootstrap over shadows.
    curve : Curve
        Of all shadows' scores together: smooth down to low rates.
    """

    name: str
    rate: AttackRate
    over_shadows: float
    over_shadows_interval: Interval
    curve: Curve


def loss_threshold(target: Observation, shadows: Sequence[Observation], view: str) -> Attack:
    """Who is surer than a threshold was trained on (Yeom et al. 2018)."""
    return _judged("loss threshold", target, shadows, lambda observation, _: observation.scores[view])


def likelihood_ratio(target: Observation, shadows: Sequence[Observation], view: str) -> Attack:
    """LiRA with shadows that had each case and shadows that had not.

    Raises
    ------
    ValueError
        With fewer than four shadows, or where some case was in all of them or in none.
    """
    return _judged("likelihood ratio", target, shadows, lambda seen, others: likelihood_scores(seen, others, view))


def likelihood_scores(target: Observation, shadows: Sequence[Observation], view: str) -> Scores:
    """Log-likelihood ratio of each case, shape (n_cases,); higher speaks for membership."""
    if len(shadows) < 4:
        raise ValueError(f"{len(shadows)} shadows, expected at least 4")
    score = np.stack([shadow.scores[view] for shadow in shadows])
    member = np.stack([shadow.member for shadow in shadows])
    inside, outside = _fit(score, member), _fit(score, ~member)
    observed = target.scores[view]
    ratio = norm.logpdf(observed, *inside) - norm.logpdf(observed, *outside)
    both = member.any(axis=0) & ~member.all(axis=0)  # seen in one world only, a case is evidence of nothing
    return np.asarray(np.where(both, ratio, 0.0), dtype=np.float64)


def _fit(score: Scores, taken: Mask) -> tuple[Scores, Scores]:
    """Mean and standard deviation of each case over the trainings in which it is ``taken``."""
    n = taken.sum(axis=0)
    mean = (score * taken).sum(axis=0) / np.maximum(n, 1)
    squares = (((score - mean) ** 2) * taken).sum(axis=0)
    together = squares.sum() / max(float((n - 1).clip(min=0).sum()), 1.0)
    if len(score) >= LEAST_SHADOWS_FOR_OWN_VARIANCE:
        variance = np.where(n > 2, squares / np.maximum(n - 1, 1), together)
    else:
        variance = np.full(score.shape[1], together)
    return mean, np.sqrt(np.maximum(variance, 1e-12))


def _judged(
    name: str,
    target: Observation,
    shadows: Sequence[Observation],
    scored: Callable[[Observation, Sequence[Observation]], Scores],
) -> Attack:
    own = scored(target, shadows)
    rate = rate_at(own[target.member], own[~target.member])
    members, others, rates = [], [], []
    for number, attacked in enumerate(shadows):
        scores = scored(attacked, [*shadows[:number], *shadows[number + 1 :]])
        members.append(scores[attacked.member])
        others.append(scores[~attacked.member])
        rates.append(rate_at(members[-1], others[-1]).rate)
    drawn = np.random.default_rng(0).choice(rates, (RESAMPLES, len(rates))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    curve = roc(np.concatenate(members), np.concatenate(others))
    return Attack(name, rate, float(np.mean(rates)), Interval(float(low), float(high)), curve)
