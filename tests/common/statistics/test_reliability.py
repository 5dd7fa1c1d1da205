from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StatisticError
from common.outcomes import ScalarOutcome
from common.statistics.moments import Moments
from common.statistics.procedure import Cohort, ask_cohorts, run
from common.statistics.reliability import learn_reliability, reliability_of, reliability_table

# Shrout and Fleiss 1979, table 2: six targets, four judges
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


def names_of(n):
    return tuple(f"f{j}" for j in range(n))


def cohort(values, case_ids):
    table = reliability_table(values, names_of(values.shape[2]), case_ids)
    return Cohort(table, table, ScalarOutcome(np.zeros(len(case_ids)), "ml"), ("a",) * len(case_ids))


def solve(values, *, model="1,1", dealt=None, confidence=0.95):
    n, k, n_features = values.shape
    dealt = np.zeros(n, int) if dealt is None else np.asarray(dealt)
    sites = [cohort(values[dealt == s], [f"c{i}" for i in np.flatnonzero(dealt == s)]) for s in range(dealt.max() + 1)]
    procedure = learn_reliability(names_of(n_features), n_repeats=k, model=model, confidence=confidence)
    return run(procedure, ask_cohorts(sites))


@pytest.mark.parametrize(
    ("model", "icc", "lower", "upper"),
    # point values: Shrout and Fleiss 1979, table 4; limits: psych::ICC of R on the same data, to two decimals
    [("1,1", 0.17, -0.13, 0.72), ("3,1", 0.71, 0.34, 0.95)],
)
def test_golden_values_of_shrout_and_fleiss(model, icc, lower, upper):
    (found,) = solve(JUDGES[:, :, None], model=model).features
    assert round(found.icc, 2) == icc
    assert round(found.lower, 2) == pytest.approx(lower, abs=0.011)
    assert round(found.upper, 2) == pytest.approx(upper, abs=0.011)
    assert found.n_cases == 6


def oracle(x, model):
    """Mean squares of the analysis of variance, as printed in text books."""
    n, k = x.shape
    between = k * ((x.mean(1) - x.mean()) ** 2).sum() / (n - 1)
    if model == "1,1":
        error = ((x - x.mean(1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    else:
        residual = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + x.mean()
        error = (residual**2).sum() / ((n - 1) * (k - 1))
    return (between - error) / (between + (k - 1) * error)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_sites=st.integers(1, 5),
    k=st.integers(2, 6),
    model=st.sampled_from(["1,1", "3,1"]),
    offset=st.sampled_from([0.0, 1e6]),
)
def test_parts_give_what_the_whole_gives(seed, n_sites, k, model, offset):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(20, 1, 3)) + 0.3 * rng.normal(size=(20, k, 3)) + 0.2 * rng.normal(size=(1, k, 3)) + offset
    found = solve(values, model=model, dealt=rng.integers(0, n_sites, 20))
    assert found.undefined == ()
    for j, feature in enumerate(found.features):
        assert feature.icc == pytest.approx(oracle(values[:, :, j], model), abs=1e-7)
        assert feature.lower <= feature.icc <= feature.upper <= 1


def test_perfect_agreement_is_one():
    values = np.repeat(np.random.default_rng(0).normal(size=(8, 1, 1)), 3, axis=1)
    (found,) = solve(values).features
    assert found.icc == pytest.approx(1)
    assert found.lower == pytest.approx(1)


def test_equal_shift_of_all_cases_costs_only_model_1():
    values = np.random.default_rng(0).normal(size=(30, 1, 1)) + np.array([0.0, 1.0, 2.0])[None, :, None]
    assert solve(values, model="3,1").features[0].icc == pytest.approx(1)
    assert solve(values, model="1,1").features[0].icc < 0.7


def test_scale_and_offset_do_not_matter():
    values = np.random.default_rng(1).normal(size=(15, 4, 1))
    (one,), (other,) = solve(values).features, solve(values * -37 + 12).features
    assert other.icc == pytest.approx(one.icc, abs=1e-12)
    assert other.lower == pytest.approx(one.lower, abs=1e-12)


def test_interval_covers_at_its_confidence():
    """True ICC 0.8 (between variance 4, within 1): the interval should hold it in 95 % of 400 draws."""
    rng = np.random.default_rng(2)
    values = 2 * rng.normal(size=(25, 1, 400)) + rng.normal(size=(25, 4, 400))
    covered = np.mean([f.lower <= 0.8 <= f.upper for f in solve(values).features])
    assert 0.92 <= covered <= 0.98


def test_wider_confidence_is_a_wider_interval():
    (narrow,), (wide,) = (solve(JUDGES[:, :, None], confidence=c).features for c in (0.8, 0.99))
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_constant_and_rare_features_are_undefined_and_named():
    values = np.random.default_rng(0).normal(size=(6, 3, 3))
    values[:, :, 1] = 0.1
    values[1:, 0, 2] = np.nan  # one missing repeat takes a case out, and one case alone cannot be compared
    found = solve(values, dealt=[0, 0, 1, 1, 1, 0])
    assert [f.feature for f in found.features] == ["f0"]
    assert found.undefined == ("f1", "f2")


def test_keep_compares_what_it_is_told():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10, 1, 4)) + np.array([0.05, 0.4, 0.7, 3.0]) * rng.normal(size=(10, 3, 4))
    found = solve(values)
    by_point, by_lower = found.keep(minimum=0.75, decides="point"), found.keep(minimum=0.75, decides="lower")
    assert by_lower == ("f0",)
    assert set(by_lower) < set(by_point)
    assert "f3" not in by_point


def test_other_columns_and_single_measurements_are_refused():
    table = reliability_table(JUDGES[:, :, None], ("a",), tuple("abcdef"))
    with pytest.raises(StatisticError, match="not the moments"):
        reliability_of(Moments.of(table), ("b",), n_repeats=4, model="1,1", confidence=0.95)
    with pytest.raises(ValueError, match="at least 2"):
        reliability_table(JUDGES[:, :1, None], ("a",), tuple("abcdef"))
