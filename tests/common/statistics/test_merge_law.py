"""The law of every query: sums of the parts add up to the sums of the whole, for any split and order of sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.arrays import merge_sums
from common.statistics.procedure import Merging
from common.statistics.xgboost_trees import XgboostQuery
from tests.common.statistics.examples import EXAMPLES
from tests.common.statistics.model_examples import sites_of, whole_of

SUMS = [query for query in EXAMPLES if not isinstance(query, Merging)]


def test_one_query_alone_is_no_sum():
    assert [type(query) for query in EXAMPLES if isinstance(query, Merging)] == [XgboostQuery]


@pytest.mark.parametrize("query", SUMS, ids=lambda query: query.kind)
def test_parts_add_up_to_the_whole(query):
    @settings(max_examples=8, deadline=None)
    @given(n_sites=st.integers(1, 7), seed=st.integers(0, 1000), order=st.randoms())
    def law(n_sites, seed, order):
        sites = sites_of(query, n_sites, seed=seed)
        order.shuffle(sites)
        merged, whole = merge_sums([query.summarise(site) for site in sites]), query.summarise(whole_of(query))
        assert merged.keys() == whole.keys()
        for name, array in whole.items():
            assert array.dtype in (np.int64, np.float64)
            np.testing.assert_allclose(
                merged[name], array, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(array).max(initial=0))
            )

    law()


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_a_query_does_not_touch_the_cohort_and_says_its_counts(query):
    whole = whole_of(query)
    before = whole.table.values.copy()
    query.summarise(whole)
    np.testing.assert_array_equal(whole.table.values, before)
    counts = query.case_counts(whole)
    assert counts.dtype == np.int64
    assert counts.size
    assert (counts >= 0).all()
    assert counts.max() <= whole.table.n_cases


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_size_of_the_answer_does_not_depend_on_the_number_of_cases(query):
    few, many = query.summarise(sites_of(query, 8, seed=1)[0]), query.summarise(whole_of(query))
    assert {k: v.shape for k, v in few.items()} == {k: v.shape for k, v in many.items()}
