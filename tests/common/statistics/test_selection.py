"""Selection against scipy, scikit-learn and brute force on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.feature_selection import f_classif
from sklearn.metrics import mutual_info_score

from common.errors import StatisticError
from common.statistics.moments import moments
from common.statistics.procedure import run
from common.statistics.quantiles import balanced_edges
from common.statistics.ranking import Ranking
from common.statistics.selection_filters import uncorrelated, varying
from common.statistics.selection_information import mrmr, mutual_information
from common.statistics.selection_tests import analysis_of_variance, mann_whitney, welch
from common.statistics.small_cell import release
from tests.common.statistics.cohorts import cohort, solve, split

CLASSES = ("class-0", "class-1")


def by_name(ranking, names, values):
    return np.array([dict(zip(ranking.names, values, strict=True))[name] for name in names])


@pytest.mark.parametrize("n_sites", [1, 5])
def test_welch_equals_scipy(n_sites):
    whole = cohort(120, 8)
    ranking = solve(lambda: welch(whole.table.names, CLASSES), split(whole, n_sites))
    zero, one = (whole.table.values[whole.outcome.labels == k] for k in range(2))
    oracle = stats.ttest_ind(one, zero, equal_var=False)
    np.testing.assert_allclose(by_name(ranking, whole.table.names, ranking.score), np.abs(oracle.statistic), rtol=1e-9)
    np.testing.assert_allclose(by_name(ranking, whole.table.names, ranking.p_value), oracle.pvalue, rtol=1e-8)
    assert (np.diff(ranking.score) <= 0).all()
    rate = stats.false_discovery_control(ranking.p_value)
    np.testing.assert_allclose(ranking.false_discovery_rate(), rate, rtol=1e-12)


def test_analysis_of_variance_equals_scikit_learn():
    whole = cohort(150, 6, n_classes=3)
    classes = ("class-0", "class-1", "class-2")
    ranking = solve(lambda: analysis_of_variance(whole.table.names, classes), split(whole, 4))
    f, p = f_classif(whole.table.values, whole.outcome.labels)
    np.testing.assert_allclose(by_name(ranking, whole.table.names, ranking.score), f, rtol=1e-9)
    np.testing.assert_allclose(by_name(ranking, whole.table.names, ranking.p_value), p, rtol=1e-8)


@pytest.mark.parametrize("n_sites", [1, 6])
def test_mann_whitney_within_its_bound(n_sites):
    whole = cohort(300, 5, seed=2)
    values = whole.table.values.copy()
    values[:, 3] = np.exp(values[:, 3] / values[:, 3].std())
    values[:, 4] = np.round(values[:, 4])
    whole = replace(whole, table=whole.table.with_values(values))
    found = solve(lambda: mann_whitney(whole.table.names, CLASSES), split(whole, n_sites))
    zero, one = (values[whole.outcome.labels == k] for k in range(2))
    oracle = stats.mannwhitneyu(one, zero, method="asymptotic")
    assert (np.abs(found.u - oracle.statistic) <= found.bound + 1e-9).all()
    assert (found.bound[:4] < 0.01 * len(zero) * len(one)).all()
    np.testing.assert_allclose(found.u[4], oracle.statistic[4], rtol=1e-3)
    np.testing.assert_allclose(found.p_value, oracle.pvalue, rtol=0.1, atol=1e-4)


def test_mutual_information_equals_scikit_learn_on_the_same_bins():
    whole = cohort(200, 5)
    sites = split(whole, 4)
    edges = solve(lambda: balanced_edges(whole.table.names, 10), sites)
    ranking = solve(lambda: mutual_information(whole.table.names, CLASSES), sites)
    expected = [
        mutual_info_score(np.searchsorted(edges[j], whole.table.values[:, j]), whole.outcome.labels) for j in range(5)
    ]
    np.testing.assert_allclose(by_name(ranking, whole.table.names, ranking.score), expected, rtol=1e-9)


def test_ranking_by_information_survives_the_small_cell_rule():
    whole = cohort(600, 6, signal=2.0, shift=0.0)
    sites = split(whole, 3)
    exact = solve(lambda: mutual_information(whole.table.names, CLASSES), sites)
    ruled = run(
        mutual_information(whole.table.names, CLASSES),
        lambda query: [release(query, site, minimum_cases=5) for site in sites],
    )
    assert set(ruled.top(3)) == set(exact.top(3)) == {"feature-000", "feature-001", "feature-002"}


@pytest.mark.parametrize("combination", ["difference", "quotient"])
def test_mrmr_equals_brute_force(combination):
    whole = cohort(200, 40, seed=3)
    values = whole.table.values.copy()
    values[:, 20:] = values[:, :20] + 0.1 * values[:, 20:]
    whole = replace(whole, table=whole.table.with_values(values))
    names = whole.table.names
    chosen = solve(
        lambda: mrmr(names, CLASSES, n_selected=12, relevance="anova", combination=combination), split(whole, 4)
    )
    f, _ = f_classif(values, whole.outcome.labels)
    correlation = np.abs(np.corrcoef(values.T))
    expected = [int(np.argmax(f))]
    while len(expected) < 12:
        redundancy = correlation[expected].mean(axis=0)
        merit = f - redundancy if combination == "difference" else f / np.maximum(redundancy, 1e-3)
        merit[expected] = -np.inf
        expected.append(int(np.argmax(merit)))
    assert chosen.names == tuple(names[j] for j in expected)


def test_correlation_filter_equals_brute_force():
    whole = cohort(150, 100, seed=6)
    values = whole.table.values.copy()
    values[:, 50:] = values[:, :50] + 0.3 * np.random.default_rng(0).normal(size=(150, 50)) * values[:, :50].std(axis=0)
    whole = replace(whole, table=whole.table.with_values(values))
    order = tuple(np.random.default_rng(1).permutation(whole.table.names))
    kept = solve(lambda: uncorrelated(order, largest=0.7), split(whole, 5))
    correlation = np.abs(np.corrcoef(whole.table.select(order).values.T))
    expected: list[int] = []
    for j in range(100):
        if all(correlation[j, i] <= 0.7 for i in expected):
            expected.append(j)
    assert kept == tuple(order[j] for j in expected)
    assert len(kept) <= 60


def test_variance_filter():
    whole = cohort(60, 3)
    values = whole.table.values.copy()
    values[:, 1] = 5.0
    values[:, 2] *= 1e-3
    learned = solve(lambda: moments(whole.table.names), split(replace(whole, table=whole.table.with_values(values)), 2))
    assert varying(learned) == ("feature-000", "feature-002")
    assert varying(learned, minimum_variance=0.01) == ("feature-000",)


def test_refusals_name_the_feature_or_class():
    whole = cohort(60, 3)
    values = whole.table.values.copy()
    values[:, 1] = 5.0
    flat = replace(whole, table=whole.table.with_values(values))
    for make in (welch, analysis_of_variance):
        with pytest.raises(StatisticError, match="no variation within classes: feature-001"):
            solve(lambda make=make: make(whole.table.names, CLASSES), [flat])
    with pytest.raises(StatisticError, match="constant features is undefined: feature-001"):
        solve(lambda: uncorrelated(whole.table.names, largest=0.9), [flat])
    labels = np.zeros(60, dtype=np.int64)
    labels[0] = 1
    lonely = replace(whole, outcome=replace(whole.outcome, labels=labels))
    with pytest.raises(StatisticError, match=r"fewer than 2 cases of some feature: class-1 \(1\)"):
        solve(lambda: welch(whole.table.names, CLASSES), [lonely])
    with pytest.raises(StatisticError, match="compares two classes"):
        solve(lambda: welch(whole.table.names, ("a", "b", "c")), [whole])
    with pytest.raises(StatisticError, match="9 of 3 features"):
        solve(lambda: mrmr(whole.table.names, CLASSES, n_selected=9), [whole])


def test_equal_scores_keep_their_order():
    assert Ranking.of("x", ("a", "b", "c"), np.array([1.0, 2.0, 1.0])).names == ("b", "a", "c")
