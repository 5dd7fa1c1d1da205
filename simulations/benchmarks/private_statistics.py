"""What differential privacy costs in use: private statistics on 2,000 cases, and site-level noise of few hospitals.

``make bench-private-statistics`` prints the tables of ``docs/privacy_statistics.md``. Everything is drawn anew with
noise from the operating system, so figures differ in their last digit from run to run.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.private_release import PrivateRelease
from common.arrays import Parameters
from common.errors import StatisticError
from common.evaluation.metrics import auc
from common.evaluation.private_scores import private_scores, score_counts
from common.evaluation.scores import ScoreSums
from common.messages import LocalUpdate
from common.outcomes import ClassOutcome
from common.privacy.central import SiteLevel, noise_to_signal, noisy_mean, protected
from common.privacy.discrete_gaussian import discrete_gaussian
from common.privacy.gaussian import with_noise
from common.privacy.ledger import gaussian, solve_noise_multiplier
from common.rng import SystemNoise, generator
from common.statistics.bounds import Bounds, Limits, learned_bounds
from common.statistics.moments import Moments
from common.statistics.private_moments import private_moments, whole
from common.statistics.procedure import Cohort, Query, Sums, run
from common.statistics.selection_tests import welch_of
from simulations.benchmarks.statistics import CLASSES, cohorts

EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)
DELTA = 1e-5
TOP = 10
N_SITES = 4
ROUNDS = 10

Vector = npt.NDArray[np.float64]


def noise_for(epsilon: float, questions: int) -> float:
    """Noise multiplier of each of so many questions; next to none for an infinite epsilon."""
    if math.isinf(epsilon):
        return 1e-9
    return solve_noise_multiplier(target_epsilon=epsilon, delta=DELTA, sampling_rate=1.0, steps=questions)


def of_statistics(*, n_features: int, n_cases: int, learn: bool) -> list[list[str]]:
    """A row for each epsilon: errors of means and spreads, and what selection still finds."""
    sites = cohorts(n_features=n_features, n_sites=N_SITES, n_cases=n_cases)
    names = sites[0].table.names
    batches = tuple(site.batch[0] for site in sites)
    exact = whole([Moments.of(site.table) for site in sites])
    exact_top = set(_ranked(sites, names))
    spread = np.sqrt(exact.m2 / exact.present)
    half = np.abs(np.vstack([site.table.values for site in sites])).max(axis=0)
    rows = []
    for epsilon in EPSILONS:
        noise = noise_for(epsilon, 3 + 2 * learn)  # moments, selection, one evaluation
        bounds = Bounds(names, -half, half)
        if learn:
            std = noise * math.sqrt(n_features * N_SITES)
            try:
                bounds = run(learned_bounds(names, noise_std=std), _Ask(sites, noise, Limits((), *np.zeros((2, 0)))))
            except StatisticError:
                rows.append([_shown(epsilon), f"{noise:.2f}", "no range found", "", ""])
                continue
        limits = Limits(names, bounds.low, bounds.high, complete=True)
        ask = _Ask(sites, noise, limits)
        found = whole(run(private_moments(names, limits, by="batch", groups=batches), ask))
        groups = run(private_moments(names, limits, by="class", groups=CLASSES), ask)
        error = np.abs(found.mean - exact.mean) / spread
        ratio = np.sqrt(found.m2 / found.present) / spread
        kept = set(_top(groups)) & exact_top
        rows.append(
            [
                *(_shown(epsilon), f"{noise:.2f}", f"{np.median(error):.3f}", f"{np.median(np.abs(ratio - 1)):.3f}"),
                f"{len(kept)} of {TOP}",
            ]
        )
    return rows


class _Ask:
    """Private answers of all sites."""

    def __init__(self, sites: Sequence[Cohort], noise: float, limits: Limits) -> None:
        self._sites, self._limits = sites, limits
        self._release = PrivateRelease(gaussian(noise), lambda events: None)

    def __call__(self, query: Query) -> list[Sums]:
        return [self._release.statistic(query, site, self._limits) for site in self._sites]


def _ranked(sites: Sequence[Cohort], names: tuple[str, ...]) -> tuple[str, ...]:
    groups = []
    for label in range(2):
        parts = []
        for site in sites:
            assert isinstance(site.outcome, ClassOutcome)  # these cohorts have classes
            parts.append(Moments.of(site.take(np.flatnonzero(site.outcome.labels == label)).table))
        groups.append(whole(parts))
    return welch_of(groups, CLASSES).top(TOP)


def _top(groups: Sequence[Moments]) -> tuple[str, ...]:
    floor = np.maximum(whole(groups).m2 * 0.01, np.finfo(np.float64).tiny)
    floored = [Moments(g.names, g.n_cases, g.present, g.mean, np.maximum(g.m2, floor)) for g in groups]
    return welch_of(floored, CLASSES).top(TOP)


def of_scores(n_cases: int, *, questions: int = 3) -> list[list[str]]:
    """Root mean square error of the merged area under the curve, by epsilon; a row for each."""
    rng = generator(0, "private-scores")
    labels = rng.integers(0, 2, n_cases)
    p = 1 / (1 + np.exp(-rng.normal(1.4 * labels - 0.7, 1.0)))
    probabilities = np.column_stack([1 - p, p])
    exact = auc(ScoreSums.summarise(probabilities, labels)).value
    parts = np.array_split(np.arange(n_cases), N_SITES)
    rows = []
    for epsilon in EPSILONS:
        noise, source, errors = noise_for(epsilon, questions), SystemNoise(), []
        for _ in range(50):
            sums = [
                private_scores(
                    with_noise(score_counts(probabilities[rows_], labels[rows_]), std=noise, source=source),
                    n_cases=len(rows_),
                    noise_std=noise,
                )
                for rows_ in parts
            ]
            errors.append(auc(ScoreSums.merge(sums)).value - exact)
        rows.append([_shown(epsilon), f"{noise:.2f}", f"{exact:.3f}", f"{np.sqrt(np.mean(np.square(errors))):.4f}"])
    return rows


def of_site_level(n_sites: int, *, n_features: int = 20) -> list[list[str]]:
    """A logistic model of 2,000 cases at each epsilon: noise to signal, and its accuracy, over `ROUNDS` rounds."""
    sites = cohorts(n_features=n_features, n_sites=n_sites, n_cases=2_000)
    rows = []
    for epsilon in (*EPSILONS[:-1], 50.0, math.inf):
        noise = noise_for(epsilon, ROUNDS)
        ratio = noise_to_signal(noise_multiplier=noise, n_values=n_features + 1, n_sites=n_sites)
        rights = [_accuracy(_trained(sites, noise), sites) for _ in range(5)]
        rows.append([_shown(epsilon), f"{noise:.2f}", f"{ratio:.2f}", f"{np.mean(rights):.3f}"])
    return rows


def _trained(sites: Sequence[Cohort], noise: float) -> Vector:
    level, source = SiteLevel(noise), SystemNoise()
    weights = Parameters({"w": np.zeros(sites[0].table.n_features + 1)})
    for number in range(1, ROUNDS + 1):
        updates = [
            protected(LocalUpdate("m", number, 1, _local(site, weights), 0.0), clipping_norm=0.5) for site in sites
        ]
        mean = noisy_mean(updates, weights, level=level, clipping_norm=0.5, n_sites=len(sites), source=source)
        weights = weights.unflatten(weights.flatten() + mean.update.delta.flatten())
    return weights.flatten()


def _local(site: Cohort, weights: Parameters) -> Parameters:
    """Ten steps of gradient descent on the site's cases."""
    x, y = _design(site)
    start = weights.flatten()
    w = start.copy()
    for _ in range(10):
        w -= 0.3 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    return weights.unflatten(w - start)


def _accuracy(weights: Vector, sites: Sequence[Cohort]) -> float:
    right = [((_design(site)[0] @ weights > 0) == (_design(site)[1] > 0)).mean() for site in sites]
    return float(np.mean(right))


def _design(site: Cohort) -> tuple[Vector, Vector]:
    assert isinstance(site.outcome, ClassOutcome)  # these cohorts have classes
    values = site.table.values
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    return np.column_stack([scaled, np.ones(len(scaled))]), site.outcome.labels.astype(np.float64)


def _shown(epsilon: float) -> str:
    return "none" if math.isinf(epsilon) else f"{epsilon:g}"


def _print(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2_000, help="of all sites together")
    n = parser.parse_args().cases
    header = ("epsilon", "noise", "error of a mean (SD)", "error of an SD", f"of the best {TOP} found")
    for n_features, learn in ((20, False), (20, True), (100, False), (100, True)):
        how = "learned" if learn else "declared"
        title = f"{n} cases at {N_SITES} sites, {n_features} features, ranges {how}"
        _print(title, header, of_statistics(n_features=n_features, n_cases=n, learn=learn))
    _print(f"AUC of {n} test cases at {N_SITES} sites", ("epsilon", "noise", "AUC", "error"), of_scores(n))
    of_rounds = ("epsilon", "noise", "noise to signal", "accuracy")
    for n_sites in (3, 5, 10, 50):
        _print(f"site level: {n_sites} sites, 21 parameters, {ROUNDS} rounds", of_rounds, of_site_level(n_sites))
    start = time.process_time()
    discrete_gaussian(1_000_000, variance=10**12, source=SystemNoise())
    print(f"\n1,000,000 discrete Gaussians: {time.process_time() - start:.2f} s of CPU")


if __name__ == "__main__":
    main()
