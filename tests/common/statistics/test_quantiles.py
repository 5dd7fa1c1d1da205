from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StatisticError
from common.statistics.procedure import run
from common.statistics.quantiles import (
    balanced_edges,
    histogram_counts,
    median_imputer,
    mode_imputer,
    quantiles,
)
from common.statistics.small_cell import release
from tests.common.statistics.cohorts import cohort, solve, split


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 200),
    p=st.floats(0.02, 0.98),
    shape=st.sampled_from(["normal", "skewed", "two values", "constant", "outlier"]),
)
def test_quantiles_lie_within_their_bound(seed, p, shape):
    whole = cohort(90, 3, seed=seed)
    values = {
        "normal": whole.table.values,
        "skewed": np.exp(2 * whole.table.values / whole.table.values.std()),
        "two values": (whole.table.values > whole.table.values.mean()).astype(float),
        "constant": np.full_like(whole.table.values, 0.3),
        "outlier": np.where(np.arange(90)[:, None] == 0, 1e6, whole.table.values),
    }[shape].copy()
    values[::7, 1] = np.nan
    whole = replace(whole, table=whole.table.with_values(values))
    found = solve(lambda: quantiles(whole.table.names, (p, 0.5)), split(whole, 4, seed=seed))
    for j in range(3):
        present = values[~np.isnan(values[:, j]), j]
        for i, share in enumerate((p, 0.5)):
            true = np.quantile(present, share, method="inverted_cdf")
            allowed = found.half_width[i, j] * (1 + 1e-6) + 1e-9 * np.abs(present).max()
            assert abs(found.values[i, j] - true) <= allowed
            assert found.half_width[i, j] <= 1e-3 * present.std() + 1e-9 * np.abs(present).max() + 1e-300


def test_rank_error_under_the_small_cell_rule():
    whole, minimum = cohort(400, 5, seed=3), 10
    sites = split(whole, 4)
    found = run(
        quantiles(whole.table.names, (0.1, 0.5, 0.9)),
        lambda query: [release(query, site, minimum_cases=minimum) for site in sites],
    )
    for i, share in enumerate(found.probabilities):
        rank = (whole.table.values <= found.values[i] + found.half_width[i]).sum(axis=0)
        assert np.abs(rank - share * 400).max() <= 4 * minimum / 2 + 1


def test_histograms_of_parts_are_the_histogram_of_the_whole():
    whole = cohort(150, 4)
    edges = np.quantile(whole.table.values, [0.2, 0.5, 0.7], axis=0).T
    counts = solve(
        lambda: histogram_counts(whole.table.names, edges, by="class", groups=("class-0", "class-1")), split(whole, 5)
    )
    for k in range(2):
        rows = whole.table.values[whole.outcome.labels == k]
        for j in range(4):
            expected = np.histogram(rows[:, j], [-np.inf, *np.nextafter(edges[j], np.inf), np.inf])[0]
            np.testing.assert_array_equal(counts[k, j], expected)


def test_balanced_bins():
    whole = cohort(600, 3)
    values = np.exp(whole.table.values / whole.table.values.std())
    whole = replace(whole, table=whole.table.with_values(values))
    edges = solve(lambda: balanced_edges(whole.table.names, 8), split(whole, 4))
    counts = np.array([np.bincount(np.searchsorted(edges[j], values[:, j]), minlength=8) for j in range(3)])
    assert counts.min() > 600 / 8 * 0.6
    assert counts.max() < 600 / 8 * 1.4


def test_median_and_mode_imputation():
    whole = cohort(101, 2)
    codes = np.random.default_rng(0).choice([1.0, 2.0, 3.0], p=[0.2, 0.5, 0.3], size=101)
    values = np.column_stack([whole.table.values[:, 0], codes])
    values[3], values[50, 1] = np.nan, np.nan
    whole = replace(whole, table=whole.table.with_values(values))
    median = solve(lambda: median_imputer(whole.table.names[:1]), split(whole, 3))
    mode = solve(lambda: mode_imputer(whole.table.names[1:], (3.0, 1.0, 2.0)), split(whole, 3))
    assert abs(median.fill[0] - np.nanmedian(values[:, 0])) < 0.1 * np.nanstd(values[:, 0])
    assert mode.fill[0] == 2.0
    assert not np.isnan(
        mode.apply(median.apply(whole.table).beside(whole.table.select(whole.table.names[1:]))).values
    ).any()


def test_no_value_at_all_and_wrong_probabilities():
    whole = cohort(20, 2)
    empty = replace(whole, table=whole.table.with_values(np.full((20, 2), np.nan)))
    with pytest.raises(StatisticError, match="no case has a value of feature-000, feature-001"):
        solve(lambda: median_imputer(whole.table.names), [empty])
    with pytest.raises(StatisticError, match="inside"):
        solve(lambda: quantiles(whole.table.names, (1.0,)), [whole])
    with pytest.raises(StatisticError, match="no case has one of the levels"):
        solve(lambda: mode_imputer(whole.table.names, (1.0, 2.0)), [empty])
