from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import lasso_path

from common.errors import StatisticError
from common.statistics.stability import drawn_weights, stable_lasso, stable_ranking
from tests.common.statistics.cohorts import cohort, solve, split

CLASSES = ("class-0", "class-1")


def test_draws_do_not_depend_on_the_split():
    whole = cohort(200, 2)
    for drawing in ("half", "bootstrap"):
        together = drawn_weights(whole, drawing, 5, 8)
        of_case = dict(zip(whole.table.case_ids, together, strict=True))
        for site in split(whole, 4):
            for case_id, row in zip(site.table.case_ids, drawn_weights(site, drawing, 5, 8), strict=True):
                np.testing.assert_array_equal(row, of_case[case_id])
        np.testing.assert_array_equal(drawn_weights(whole, drawing, 7, 1)[:, 0], together[:, 2])


def test_a_site_with_a_secret_draws_what_nobody_else_can_compute():
    whole = cohort(200, 2)
    hidden = drawn_weights(replace(whole, secret="of this site"), "half", 0, 10)
    assert abs((hidden == drawn_weights(whole, "half", 0, 10)).mean() - 0.5) < 0.05


def test_draws_have_their_distribution():
    whole = cohort(4000, 1)
    half, poisson = drawn_weights(whole, "half", 0, 10), drawn_weights(whole, "bootstrap", 0, 10)
    assert abs(half.mean() - 0.5) < 0.01
    assert set(np.unique(half)) == {0.0, 1.0}
    counts = np.bincount(poisson.astype(int).ravel(), minlength=5)[:5] / poisson.size
    np.testing.assert_allclose(counts, stats.poisson(1).pmf(range(5)), atol=0.01)
    assert np.abs(np.corrcoef(half.T) - np.eye(10)).max() < 0.08


@pytest.mark.parametrize("drawing", ["half", "bootstrap"])
def test_ranking_frequencies_equal_repeated_tests(drawing):
    whole = cohort(150, 8)
    found = solve(
        lambda: stable_ranking(whole.table.names, CLASSES, n_selected=3, n_draws=12, drawing=drawing), split(whole, 4)
    )
    weights = drawn_weights(whole, drawing, 0, 12).astype(int)
    frequency = np.zeros(8)
    for d in range(12):
        rows = np.repeat(np.arange(150), weights[:, d])
        x, y = whole.table.values[rows], whole.outcome.labels[rows]
        t = np.abs(stats.ttest_ind(x[y == 1], x[y == 0], equal_var=False).statistic)
        frequency[np.argsort(-t)[:3]] += 1 / 12
    np.testing.assert_allclose(found.frequency, frequency)


def test_lasso_frequencies_equal_repeated_paths():
    whole = cohort(150, 20, scalar=True)
    found = solve(lambda: stable_lasso(whole.table.names, n_selected=2, n_draws=12), split(whole, 3))
    weights = drawn_weights(whole, "half", 0, 12)
    frequency = np.zeros(20)
    for d in range(12):
        rows = weights[:, d] > 0
        x, y = whole.table.values[rows], whole.outcome.values[rows]
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        largest = np.abs(x.T @ (y - y.mean())).max() / len(y)
        _, path, _ = lasso_path(x, y - y.mean(), alphas=largest * np.geomspace(1, 1e-3, 60), tol=1e-10)
        entry = np.where((path != 0).any(axis=1), (path != 0).argmax(axis=1), 99)
        size = np.array([abs(path[j, min(entry[j], 59)]) for j in range(20)])
        frequency[np.lexsort((-size, entry))[:2]] += 1 / 12
    np.testing.assert_allclose(found.frequency, frequency, atol=1e-9)


def test_informative_features_are_stable():
    whole = cohort(300, 30, scalar=True, shift=0.0)
    found = solve(lambda: stable_lasso(whole.table.names, n_selected=3, n_draws=20), split(whole, 3))
    assert set(found.stable(0.9)) == {"feature-000", "feature-001"}
    assert found.expected_false(0.9) == pytest.approx(9 / (0.8 * 30))
    with pytest.raises(StatisticError, match="thresholds"):
        found.expected_false(0.5)


def test_refusals():
    whole = cohort(40, 3)
    with pytest.raises(StatisticError, match="4 of 3 features"):
        solve(lambda: stable_ranking(whole.table.names, CLASSES, n_selected=4), [whole])
    with pytest.raises(StatisticError, match="at most 500 candidates"):
        solve(lambda: stable_lasso(tuple(map(str, range(501))), n_selected=4), [whole])
