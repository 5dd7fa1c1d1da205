"""Subgroups at a site: every case is in one level of each column, and small levels stay."""

from __future__ import annotations

import numpy as np

from client.subgroups import OTHER, levels, sums_by_level
from common.config.study import SubgroupConfig
from common.evaluation.fairness import read_subgroups

SEX = SubgroupConfig(column="sex", values=("f", "m"))
AGE = SubgroupConfig(column="age", edges=(50.0, 70.0))


def test_every_cell_has_a_level():
    level, names = levels(SEX, ["m", "f", "", "x"])
    assert names == ("f", "m", OTHER)
    assert level.tolist() == [1, 0, 2, 2]
    level, names = levels(AGE, ["49.9", "50", "70", "", "old", "inf"])
    assert names == ("below 50", "50 to below 70", "70 and above", "not known")
    assert level.tolist() == [0, 1, 2, 3, 3, 3]


def test_levels_add_up_to_all_cases_and_few_cases_stay():
    rng = np.random.default_rng(0)
    cells = ["f"] * 30 + ["m"] * 28 + ["x"] * 2
    p = rng.uniform(size=60)
    probabilities, labels = np.column_stack([1 - p, p]), rng.integers(0, 2, 60)
    whole = read_subgroups(dict(sums_by_level(SEX, cells, probabilities, labels, minimum_cases=1)))["sex"]
    assert {name: sums.n_cases for name, sums in whole.items()} == {"f": 30, "m": 28, OTHER: 2}
    shown = read_subgroups(dict(sums_by_level(SEX, cells, probabilities, labels, minimum_cases=5)))["sex"]
    assert shown[OTHER].n_cases == 0
    # and one more level, because the overall sums leave too
    assert sorted(sums.n_cases for sums in shown.values()) == [0, 0, 30]
