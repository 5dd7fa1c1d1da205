"""A question about survival may name the study's times alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.errors import MessageError
from common.statistics import QUERIES
from common.statistics.agreed_times import TIMED_QUERIES, require_agreed_times
from common.statistics.cox import CoxBinsQuery
from common.statistics.discrete_survival import HazardQuery
from common.statistics.moments import MomentQuery

ONE, AGREED = np.ones(1), (365.0, 730.0)


def hazards(*ends_days: float) -> HazardQuery:
    return HazardQuery(("a",), ONE, ONE, np.array(ends_days), np.zeros(len(ends_days)), ONE)


def bins(*ends_days: float) -> CoxBinsQuery:
    return CoxBinsQuery(("a",), np.array(ends_days), ONE, ONE, ONE)


@pytest.mark.parametrize("query", [hazards, bins])
def test_the_studys_own_ends_pass_and_no_others(query: type):
    require_agreed_times(query(*AGREED), interval_ends_days=AGREED)
    for other in [(365.0,), (365.0, 731.0), (365.0, 730.0, 1095.0), (364.999, 730.0)]:
        with pytest.raises(MessageError, match="not those of the study"):
            require_agreed_times(query(*other), interval_ends_days=AGREED)
    with pytest.raises(MessageError, match="none days"):
        require_agreed_times(query(*AGREED), interval_ends_days=())


def test_a_query_without_times_passes():
    require_agreed_times(MomentQuery(("a",), "all", ("all",), np.zeros((1, 1)), 1), interval_ends_days=AGREED)


def test_every_query_that_names_days_is_held_to_them():
    named = {query for query in QUERIES if any("days" in field.name for field in dataclasses.fields(query))}  # type: ignore[arg-type]  # queries are dataclasses
    assert named == set(TIMED_QUERIES)
