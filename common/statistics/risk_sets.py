"""Risk sets as sums: what Cox's partial likelihood needs of the cases at each time, and the likelihood from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.statistics.columns import Indices, Matrix
from common.statistics.procedure import Sums


@dataclass(frozen=True, eq=False)
class PartialLikelihood:
    """Logarithm, gradient (p,) and information (p, p); adds up over strata."""

    value: float
    gradient: Matrix
    information: Matrix

    def plus(self, other: PartialLikelihood) -> PartialLikelihood:
        return PartialLikelihood(
            self.value + other.value, self.gradient + other.gradient, self.information + other.information
        )


def risk_sums(
    values: Matrix, score: Matrix, event: npt.NDArray[np.bool_], column: Indices, n_times: int
) -> dict[str, Matrix]:
    """Sums of exp(score) (1, x, x x') over the cases that leave at each time, and over those with the event."""
    weight = np.exp(score)
    sums: dict[str, Matrix] = {}
    for name, keep in (("leaving", np.ones(len(score), dtype=bool)), ("dying", event)):
        x, w, c = values[keep], weight[keep], column[keep]
        member = np.zeros((n_times, len(c)))
        member[c, np.arange(len(c))] = w
        sums[f"{name}_0"], sums[f"{name}_1"] = member.sum(axis=1), member @ x
        outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), x.shape[1] ** 2)
        sums[f"{name}_2"] = (member @ outer).reshape(n_times, x.shape[1], x.shape[1])
    sums["deaths"] = np.bincount(column[event], minlength=n_times).astype(np.float64)
    sums["death_scores"] = np.array([score[event].sum()])
    sums["death_values"] = values[event].sum(axis=0)
    return sums


def partial_likelihood(risk: Sums, ties: str) -> PartialLikelihood:
    """Partial likelihood from sums a time: deaths d share denominators S - (l / d) D, l = 0..d-1 (Breslow: S)."""
    at_risk = [risk[f"leaving_{power}"][::-1].cumsum(axis=0)[::-1] for power in range(3)]
    dying = [risk[f"dying_{power}"] for power in range(3)]
    deaths = risk["deaths"]
    value = float(risk["death_scores"][0])
    gradient: Matrix = risk["death_values"].astype(np.float64)
    information: Matrix = np.zeros(at_risk[2].shape[1:])
    for tie in range(int(deaths.max(initial=0))):
        times = np.flatnonzero(deaths > tie)
        share = tie / deaths[times] if ties == "efron" else np.zeros(len(times))
        s0 = at_risk[0][times] - share * dying[0][times]
        s1 = (at_risk[1][times] - share[:, None] * dying[1][times]) / s0[:, None]
        s2 = np.tensordot(1 / s0, at_risk[2][times], axes=1) - np.tensordot(share / s0, dying[2][times], axes=1)
        value -= float(np.log(s0).sum())
        gradient = gradient - s1.sum(axis=0)
        information = information + s2 - s1.T @ s1
    return PartialLikelihood(value, gradient, information)
