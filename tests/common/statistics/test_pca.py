from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from common.errors import StatisticError
from common.statistics.pca import principal_components, randomised_components
from common.statistics.procedure import run
from tests.common.statistics.cohorts import ask_and_record, cohort, solve, split


def up_to_sign(ours, theirs):
    return ours * np.sign((ours * theirs).sum(axis=1))[:, None]


@pytest.mark.parametrize("n_sites", [1, 3, 8])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_equal_to_scikit_learn_up_to_sign(n_sites, offset):
    whole = cohort(150, 20)
    whole = replace(whole, table=whole.table.with_values(whole.table.values + offset))
    model = solve(lambda: principal_components(whole.table.names, 6), split(whole, n_sites))
    oracle = PCA(n_components=6, svd_solver="full").fit(whole.table.values)
    np.testing.assert_allclose(model.components, up_to_sign(oracle.components_, model.components), atol=1e-8)
    np.testing.assert_allclose(model.variance, oracle.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(model.explained, oracle.explained_variance_ratio_, rtol=1e-8)
    scores = up_to_sign(oracle.transform(whole.table.values).T, model.apply(whole.table).values.T)
    np.testing.assert_allclose(model.apply(whole.table).values, scores.T, atol=1e-7)
    assert model.apply(whole.table).names[0] == "pca-1"


def test_randomised_components_of_many_features():
    whole = cohort(200, 30, seed=2)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 5)) * np.array([9.0, 7.0, 5.0, 4.0, 3.0])
    values = scores @ rng.normal(size=(5, 2100)) + 0.3 * rng.normal(size=(200, 2100))
    table = replace(whole.table, values=values, names=tuple(f"f{j}" for j in range(2100)))
    whole = replace(whole, table=table)
    ask, _, answered = ask_and_record(split(whole, 4))
    model = run(principal_components(table.names, 5), ask)
    assert max(array.nbytes for answer in answered for sums in answer for array in sums.values()) < 1e6
    oracle = PCA(n_components=5, svd_solver="full").fit(values)
    np.testing.assert_allclose(model.components, up_to_sign(oracle.components_, model.components), atol=1e-6)
    np.testing.assert_allclose(model.variance, oracle.explained_variance_, rtol=1e-8)


def test_randomised_equals_full_on_few_features():
    whole = cohort(120, 12)
    full = solve(lambda: principal_components(whole.table.names, 3), split(whole, 3))
    drawn = solve(lambda: randomised_components(whole.table.names, 3, seed=5), split(whole, 3))
    np.testing.assert_allclose(drawn.components, full.components, atol=1e-8)


def test_too_many_components():
    with pytest.raises(StatisticError, match="9 components of 5 cases and 8 features"):
        solve(lambda: principal_components(cohort(5, 8).table.names, 9), [cohort(5, 8)])
