"""Subgroups: the measures of each, and that what is withheld cannot be had by subtraction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from common.arrays import merge_sums
from common.errors import MessageError
from common.evaluation.fairness import (
    age_bands,
    read_subgroups,
    shown_levels,
    subgroup_arrays,
    subgroup_sums,
    subgroup_table,
)
from common.evaluation.scores import ScoreSums
from tests.common.evaluation.predictions import binary, dealt

LEVELS = ("female", "male", "not known")


@settings(max_examples=200, deadline=None)
@given(
    counts=hnp.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(2, 3)), elements=st.integers(0, 15)),
    minimum=st.integers(1, 8),
)
def test_no_union_of_levels_that_can_be_derived_is_small(counts, minimum):
    """The attacker knows the overall sums and every shown level, and subtracts."""
    if ((counts.sum(axis=0) > 0) & (counts.sum(axis=0) < minimum)).any():
        return  # the overall sums themselves are refused then
    shown = shown_levels(counts, minimum_cases=minimum)
    withheld = counts[~shown].sum(axis=0)
    for derived in [*counts[shown], withheld]:
        assert ((derived == 0) | (derived >= minimum)).all()
    if minimum == 1:
        assert shown.all()


def test_one_small_level_takes_another_with_it():
    counts = np.array([[30, 20], [40, 3], [12, 9]])
    assert shown_levels(counts, minimum_cases=5).tolist() == [True, False, False]
    assert shown_levels(counts, minimum_cases=3).tolist() == [True, True, True]


def test_the_table_over_sites():
    p, labels = binary(900, seed=4)
    level = np.random.default_rng(1).integers(0, 2, 900)
    level[:3] = 2
    parts = [subgroup_sums(p[r], labels[r], level[r], LEVELS) for r in dealt(900, 4)]
    merged = {name: ScoreSums.merge([part[name] for part in parts]) for name in LEVELS}
    female, male, unknown = subgroup_table(merged)
    for row, k in ((female, 0), (male, 1)):
        here = level == k
        assert row.n_cases == here.sum()
        assert row.n_positive == labels[here].sum()
        assert row.measures["auc"].value == pytest.approx(roc_auc_score(labels[here], p[here, 1]), abs=1e-3)
    assert unknown.n_cases == 3
    assert female.against_rest is not None
    assert male.against_rest is not None
    assert female.against_rest.low < 0 < female.against_rest.high
    guarded = [subgroup_sums(p[r], labels[r], level[r], LEVELS, minimum_cases=5) for r in dealt(900, 4)]
    assert all(part["not known"].n_cases == 0 for part in guarded)
    table = subgroup_table({name: ScoreSums.merge([part[name] for part in guarded]) for name in LEVELS})
    assert "not known" not in {row.level for row in table}


def test_a_subgroup_of_one_class_has_a_gap_for_its_auc():
    p, labels = binary(100)
    (row, rest) = subgroup_table(subgroup_sums(p, labels, 1 - labels, ("events", "others")))
    assert "auc" not in row.measures
    assert row.against_rest is None
    assert "sensitivity" in row.measures
    assert rest.n_positive == 0
    (alone,) = subgroup_table(subgroup_sums(p, labels, np.zeros(100, dtype=np.int64), ("all", "none")))
    assert alone.against_rest is None


def test_subgroups_go_over_the_wire():
    p, labels = binary(60)
    names = ("A/B scanner", "other")
    sums = subgroup_sums(p, labels, np.arange(60) % 2, names)
    arrays = subgroup_arrays("scanner", sums) | subgroup_arrays("sex", sums)
    back = read_subgroups(merge_sums([arrays, arrays]))
    assert list(back) == ["scanner", "sex"]
    assert {level: part.n_cases for level, part in back["scanner"].items()} == dict.fromkeys(names, 60)
    with pytest.raises(MessageError):
        read_subgroups({"sex/female": p})


def test_age_bands():
    band, names = age_bands(np.array([17.9, 18.0, 64.0, 90.0, np.nan]), (18, 65))
    assert names == ("below 18", "18 to below 65", "65 and above", "not known")
    assert band.tolist() == [0, 1, 1, 2, 3]
    for wrong in ((), (65, 18), (18, 18)):
        with pytest.raises(ValueError, match="must rise"):
            age_bands(np.zeros(2), wrong)
