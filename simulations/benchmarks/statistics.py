"""Cost of federated statistics: CPU seconds, rounds and bytes, and that bytes do not grow with the number of cases.

``make bench-statistics`` runs it with the figures of the targets: 2,000 features, 20 sites, 10,000 cases; ComBat
under 30 s of CPU in total and LASSO under 60 s, sites and coordinator together. ``--small`` takes seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xgboost
from sklearn.metrics import roc_auc_score

from common.outcomes import ClassOutcome
from common.rng import generator
from common.statistics import encode_query
from common.statistics.batch_effect import batch_effect
from common.statistics.boosting import BoostingSettings, boosting
from common.statistics.columns import Indices
from common.statistics.combat import combat
from common.statistics.combat_model import CombatModel, CombatSettings
from common.statistics.design import Covariates
from common.statistics.lasso import PenaltySettings, lasso
from common.statistics.logistic import logistic_lasso
from common.statistics.moments import moments
from common.statistics.pca import principal_components, randomised_components
from common.statistics.procedure import Cohort, Procedure, Query, Sums, run
from common.statistics.quantiles import balanced_edges, quantiles
from common.statistics.selection_filters import uncorrelated
from common.statistics.selection_information import mrmr, mutual_information
from common.statistics.selection_tests import mann_whitney, welch
from common.statistics.small_cell import release
from common.statistics.stability import stable_lasso, stable_ranking
from common.statistics.xgboost_trees import XgboostSettings, xgboost_bagging
from common.tables import FeatureTable

CLASSES = ("absent", "present")
N_FACTORS = 40
N_INFORMATIVE = 30
LIMITS_S = {"ComBat": 30.0, "LASSO path": 60.0, "LASSO, 5 folds": 60.0}


@dataclass
class Meter:
    """Answers questions from cohorts and counts: rounds, bytes asked and answered for one site."""

    cohorts: Sequence[Cohort]
    rounds: int = 0
    asked: int = 0
    answered: int = 0

    def __call__(self, query: Query) -> list[Sums]:
        self.rounds += 1
        self.asked += sum(_size(value) for value in encode_query(query)[1].values())
        answers = [query.summarise(cohort) for cohort in self.cohorts]
        self.answered += sum(array.nbytes for array in answers[0].values())
        return answers


@dataclass(frozen=True)
class Cost:
    """What one procedure took."""

    name: str
    cpu_s: float
    rounds: int
    asked: int
    answered: int
    result: Any


def cohorts(*, n_features: int, n_sites: int, n_cases: int, seed: int = 0) -> list[Cohort]:
    """Correlated features with site shifts and scales; the outcome depends on the first `N_INFORMATIVE`."""
    rng = generator(seed, "bench-statistics")
    names = tuple(f"feature-{j:04d}" for j in range(n_features))
    mixing = 0.5 * rng.normal(size=(N_FACTORS, n_features))
    weights = rng.normal(size=min(N_INFORMATIVE, n_features))
    per_site = n_cases // n_sites
    made = []
    for site in range(n_sites):
        values = rng.normal(size=(per_site, n_features)) + rng.normal(size=(per_site, N_FACTORS)) @ mixing
        score = values[:, : weights.size] @ weights / 5 + rng.normal(size=per_site)
        values = values * np.exp(0.2 * rng.normal(size=n_features)) + 0.5 * rng.normal(size=n_features)
        ids = tuple(f"{site}-{i}" for i in range(per_site))
        clinical = np.column_stack([rng.normal(60, 10, per_site), rng.integers(0, 2, per_site).astype(np.float64)])
        made.append(
            Cohort(
                table=FeatureTable(values, names, ids),
                clinical=FeatureTable(clinical, ("age", "sex"), ids),
                outcome=ClassOutcome((score > 0).astype(np.int64), CLASSES),
                batch=(f"site-{site:02d}",) * per_site,
                seed=seed,
            )
        )
    return made


def measure(name: str, procedure: Procedure[Any], sites: Sequence[Cohort]) -> Cost:
    """Run one procedure; CPU of this process, which is all sites and the coordinator together."""
    meter, start = Meter(sites), time.process_time()
    result = run(procedure, meter)
    return Cost(name, time.process_time() - start, meter.rounds, meter.asked, meter.answered, result)


def all_costs(sites: Sequence[Cohort]) -> list[Cost]:
    """Every procedure once, the selection on harmonised features."""
    names = sites[0].table.names
    batches = tuple(site.batch[0] for site in sites)
    covariates = Covariates(("age",), ("sex",), (2,), (0.0, 1.0))
    settings = CombatSettings(batches, covariates)
    costs = [
        measure("moments", moments(names), sites),
        measure("quantiles (10, 50, 90 %)", quantiles(names, (0.1, 0.5, 0.9)), sites),
        measure("ComBat", combat(names, settings), sites),
        measure("ComBat, non-parametric", combat(names, replace(settings, method="nonparametric")), sites),
    ]
    model: CombatModel = costs[2].result
    start = time.process_time()
    harmonised = [model.apply_to(site, fold=-1) for site in sites]
    costs.append(Cost("ComBat applied", time.process_time() - start, 0, 0, 0, None))
    few = names[:100]
    costs += [
        measure("batch effect, 100 features", batch_effect(names, batches, recognised_by=few), harmonised),
        measure("correlation filter", uncorrelated(names, largest=0.7), harmonised),
        measure("Welch", welch(names, CLASSES), harmonised),
        measure("Mann-Whitney", mann_whitney(names, CLASSES), harmonised),
        measure("mutual information", mutual_information(names, CLASSES), harmonised),
        measure("mRMR, 20 features", mrmr(names, CLASSES, n_selected=20), harmonised),
        measure("LASSO path", lasso(names), harmonised),
        measure("LASSO, 5 folds", lasso(names, PenaltySettings(n_folds=5)), harmonised),
        measure("logistic LASSO, 20 penalties", logistic_lasso(names), harmonised),
        measure("PCA, 20 components", principal_components(names, 20), harmonised),
        measure("PCA by subspaces, 20", randomised_components(names, 20, seed=0), harmonised),
        measure("stable ranking, 100 draws", stable_ranking(names, CLASSES, n_selected=20), harmonised),
        measure("stable LASSO, 50 draws of 100", stable_lasso(few, n_selected=10), harmonised),
    ]
    return costs


def compare_trees() -> list[str]:
    """Test AUC of merged histograms, of trees that are put side by side, and of XGBoost on the pooled rows."""
    lines = [
        f"{'test AUC, 900 cases':<32}{'merged':>10}{'bagged':>10}{'pooled':>10}   (median of 5 cohorts, 50 rounds)"
    ]
    for n_sites in (3, 9):
        found = np.array([_tree_aucs(n_sites, seed) for seed in range(5)])
        lines.append(f"{f'{n_sites} sites':<32}" + "".join(f"{value:>10.3f}" for value in np.median(found, axis=0)))
    return lines


def _tree_aucs(n_sites: int, seed: int) -> tuple[float, float, float]:
    halves = [
        [cohort.take(np.flatnonzero(np.arange(cohort.table.n_cases) % 2 == part)) for cohort in every]
        for every in [cohorts(n_features=20, n_sites=n_sites, n_cases=1800, seed=seed)]
        for part in (0, 1)
    ]
    train, test = halves
    names, minimum = train[0].table.names, 10

    def ask(query: Query) -> list[Sums]:
        return [release(query, site, minimum_cases=minimum) for site in train]

    edges = run(balanced_edges(names, 32), ask)
    merged = run(boosting(names, edges, BoostingSettings(n_trees=50, group_size=minimum)), ask)
    bagged = run(xgboost_bagging(names, edges, XgboostSettings(rounds=50, group_size=minimum)), ask)
    pooled = xgboost.XGBClassifier(n_estimators=50, max_depth=3, learning_rate=0.1, n_jobs=1)
    pooled.fit(np.concatenate([site.table.values for site in train]), _labels(train))
    scores = [np.concatenate([model.predict(site.table)[:, 1] for site in test]) for model in (merged, bagged)]
    scores.append(pooled.predict_proba(np.concatenate([site.table.values for site in test]))[:, 1])
    first, second, third = (float(roc_auc_score(_labels(test), score)) for score in scores)
    return first, second, third


def _labels(sites: Sequence[Cohort]) -> Indices:
    outcomes = [site.outcome for site in sites]
    return np.concatenate([outcome.labels for outcome in outcomes if isinstance(outcome, ClassOutcome)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a target is missed or bytes depend on the number of cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--features", type=int, default=2_000)
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--small", action="store_true", help="200 features, 4 sites, 800 cases")
    given = parser.parse_args(arguments)
    size = (200, 4, 800) if given.small else (given.features, given.sites, given.cases)
    sites = cohorts(n_features=size[0], n_sites=size[1], n_cases=size[2])
    print(f"{size[0]:,} features x {size[1]} sites x {size[2]:,} cases")
    print(f"{'procedure':<32}{'CPU s':>8}{'rounds':>8}{'MB asked':>10}{'MB answered':>13}   (bytes: each site)")
    costs = all_costs(sites)
    for cost in costs:
        print(f"{cost.name:<32}{cost.cpu_s:>8.2f}{cost.rounds:>8}{cost.asked / 1e6:>10.2f}{cost.answered / 1e6:>13.2f}")
    print("\n".join(compare_trees()))
    missed = [
        f"{c.name}: {c.cpu_s:.1f} s, target {LIMITS_S[c.name]:.0f} s"
        for c in costs
        if c.cpu_s > LIMITS_S.get(c.name, np.inf)
    ]
    missed += _traffic_that_depends_on_cases(size[0], size[1])
    print("\n".join(missed) or "targets met; bytes of each question and answer do not depend on the number of cases")
    return int(bool(missed))


def _traffic_that_depends_on_cases(n_features: int, n_sites: int) -> list[str]:
    """Ask the same questions of few and of many cases; the names of procedures whose bytes differ."""
    found = []
    sizes: dict[str, list[tuple[int, int]]] = {}
    for n_cases in (40 * n_sites, 160 * n_sites):
        sites = cohorts(n_features=min(n_features, 100), n_sites=n_sites, n_cases=n_cases)
        names, batches = sites[0].table.names, tuple(site.batch[0] for site in sites)
        for name, procedure in (
            ("moments", moments(names)),
            ("ComBat", combat(names, CombatSettings(batches))),
            ("Welch", welch(names, CLASSES)),
            ("PCA", principal_components(names, 5)),
            ("stable ranking", stable_ranking(names, CLASSES, n_selected=5, n_draws=10)),
        ):
            cost = measure(name, procedure, sites)
            sizes.setdefault(name, []).append((cost.asked, cost.answered))
    for name, (few, many) in sizes.items():
        if few != many:
            found.append(f"{name}: {few} bytes for few cases, {many} for many")
    return found


def _size(value: object) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, tuple):
        return sum(_size(item) for item in value)
    return len(value) if isinstance(value, str) else 8


if __name__ == "__main__":
    raise SystemExit(main())
