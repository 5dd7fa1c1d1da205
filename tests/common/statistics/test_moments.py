from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from common.errors import StatisticError
from common.statistics.moments import Imputer, Moments, Scaler, grouped_moments, moments
from common.tables import FeatureTable
from tests.common.statistics.cohorts import cohort, solve, split


def with_gaps(whole, *, seed=3, share=0.1):
    values = whole.table.values.copy()
    values[np.random.default_rng(seed).random(values.shape) < share] = np.nan
    return replace(whole, table=whole.table.with_values(values))


@settings(max_examples=25, deadline=None)
@given(n_sites=st.integers(1, 6), seed=st.integers(0, 100), offset=st.sampled_from([0.0, 1e6, -1e8]))
def test_moments_of_parts_are_moments_of_the_whole(n_sites, seed, offset):
    whole = with_gaps(cohort(60, 4, seed=seed))
    whole = replace(whole, table=whole.table.with_values(whole.table.values + offset))
    learned = solve(lambda: moments(whole.table.names), split(whole, n_sites, seed=seed))
    exact = whole.table.values.astype(np.longdouble)
    np.testing.assert_array_equal(learned.present, (~np.isnan(exact)).sum(axis=0))
    assert learned.n_cases == 60
    np.testing.assert_allclose(learned.mean, np.nanmean(exact, axis=0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(learned.variance(), np.nanvar(exact, axis=0, ddof=1).astype(float), rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 50), max_size=4), seed=st.integers(0, 100))
def test_merged_moments_are_moments_of_the_whole(cuts, seed):
    table = with_gaps(cohort(50, 3, seed=seed), share=0.3).table
    edges = [0, *sorted(cuts), 50]
    merged = Moments.of(table.rows([]))
    for start, stop in itertools.pairwise(edges):
        merged = merged.merge(Moments.of(table.rows(table.case_ids[start:stop])))
    whole = Moments.of(table)
    assert merged.n_cases == whole.n_cases
    np.testing.assert_array_equal(merged.present, whole.present)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-10)


def test_moments_by_class_and_batch():
    whole = cohort(90, 4)
    groups = tuple(sorted(set(whole.batch)))
    parts = solve(lambda: grouped_moments(whole.table.names, by="batch", groups=groups), split(whole, 4))
    for name, part in zip(groups, parts, strict=True):
        rows = whole.table.values[[b == name for b in whole.batch]]
        np.testing.assert_allclose(part.mean, rows.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(part.variance(), rows.var(axis=0, ddof=1), rtol=1e-12)
    with pytest.raises(StatisticError, match="batches not agreed on: scanner-2"):
        solve(lambda: grouped_moments(whole.table.names, by="batch", groups=groups[:2]), [whole])


def test_scaler_equals_standard_scaler():
    whole = cohort(80, 5)
    scaler = Scaler.standard(solve(lambda: moments(whole.table.names), split(whole, 3)))
    oracle = StandardScaler().fit(whole.table.values)
    np.testing.assert_allclose(scaler.apply(whole.table).values, oracle.transform(whole.table.values), rtol=1e-10)


def test_constant_feature_is_named():
    whole = cohort(40, 3)
    values = whole.table.values.copy()
    values[:, 1] = 0.1
    table = whole.table.with_values(values)
    learned = solve(lambda: moments(table.names), split(replace(whole, table=table), 3))
    with pytest.raises(StatisticError, match="constant over all sites: feature-001"):
        Scaler.standard(learned)
    kept = Scaler.standard(learned, constant="keep")
    assert kept.constant == ("feature-001",)
    np.testing.assert_allclose(kept.apply(table).values[:, 1], 0.0, atol=1e-15)


def test_constant_at_one_site_alone_is_not_constant():
    whole = cohort(40, 3)
    sites = split(whole, 2)
    values = sites[0].table.values.copy()
    values[:, 1] = 7.0
    sites[0] = replace(sites[0], table=sites[0].table.with_values(values))
    learned = solve(lambda: moments(whole.table.names), sites)
    pooled = np.vstack([site.table.values for site in sites])
    np.testing.assert_allclose(learned.variance(), pooled.var(axis=0, ddof=1), rtol=1e-12)


def test_imputer_fills_with_the_mean_of_all_sites():
    whole = with_gaps(cohort(60, 4))
    imputer = Imputer.mean(solve(lambda: moments(whole.table.names), split(whole, 3)))
    filled = imputer.apply(whole.table).values
    gaps = np.isnan(whole.table.values)
    expected = np.broadcast_to(np.nanmean(whole.table.values, axis=0), filled.shape)
    np.testing.assert_allclose(filled[gaps], expected[gaps], rtol=1e-13)
    np.testing.assert_array_equal(filled[~gaps], whole.table.values[~gaps])


def test_all_missing_column_is_named():
    whole = cohort(30, 3)
    values = whole.table.values.copy()
    values[:, 2] = np.nan
    whole = replace(whole, table=whole.table.with_values(values))
    learned = solve(lambda: moments(whole.table.names), split(whole, 2))
    assert learned.missing[2] == 30
    for refused in (Imputer.mean, Scaler.standard):
        with pytest.raises(StatisticError, match="no case has a value of feature-002"):
            refused(learned)


def test_one_case_has_no_variance():
    table = FeatureTable(np.array([[1.0]]), ("a",), ("x",))
    with pytest.raises(StatisticError, match="variance of a needs more than 1"):
        Moments.of(table).variance()


def test_absent_feature_is_named():
    with pytest.raises(StatisticError, match="features not in the table: nowhere"):
        solve(lambda: moments(("nowhere",)), [cohort(10, 2)])
