from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import StatisticError
from common.statistics.schema import TableSchema, agree

NORTH = TableSchema("north", ("a", "b", "c"), "fedrad 0.1.0", "aa11", ("north-1", "north-2"))
SOUTH = TableSchema("south", ("c", "a", "b"), "fedrad 0.1.0", "aa11", ("south",))


def test_order_of_columns_does_not_matter():
    agreed = agree([NORTH, SOUTH])
    assert agreed.feature_names == ("a", "b", "c")
    assert agreed.batches == ("north-1", "north-2", "south")
    assert agreed.dropped == ()


def test_missing_feature_is_refused_by_name_or_dropped_everywhere():
    poor = replace(SOUTH, feature_names=("a", "c"))
    with pytest.raises(StatisticError, match="feature b is missing at south"):
        agree([NORTH, poor])
    agreed = agree([NORTH, poor], missing_feature="drop")
    assert agreed.feature_names == ("a", "c")
    assert agreed.dropped == ("b",)


def test_every_difference_is_named_at_once():
    other = replace(SOUTH, extractor_version="fedrad 0.2.0", settings_digest="bb22")
    with pytest.raises(StatisticError) as refused:
        agree([NORTH, other], missing_feature="drop")
    assert "extractor fedrad 0.1.0 at north, fedrad 0.2.0 at south" in str(refused.value)
    assert "extraction settings aa11 at north, bb22 at south" in str(refused.value)


def test_nothing_in_common():
    with pytest.raises(StatisticError, match="no feature is common"):
        agree([NORTH, replace(SOUTH, feature_names=("z",))], missing_feature="drop")
    with pytest.raises(StatisticError, match="no site"):
        agree([])
