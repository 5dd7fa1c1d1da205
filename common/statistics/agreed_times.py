"""Times that a question about survival may name: those of the study, which the hospital approved.

Freely chosen interval ends would let a coordinator move an edge past one case after the other and subtract. The
small-cell rule refuses small intervals in one answer; that the edges never move keeps two answers from making one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import MessageError
from common.statistics.cox import CoxBinsQuery
from common.statistics.discrete_survival import HazardQuery
from common.statistics.procedure import Query

TIMED_QUERIES: tuple[type[Query], ...] = (CoxBinsQuery, HazardQuery)
"""Every query that names times; a test finds one that is forgotten."""


def require_agreed_times(query: Query, *, interval_ends_days: Sequence[float]) -> None:
    """Refuse a query whose interval ends are not the study's.

    Parameters
    ----------
    interval_ends_days : sequence of float
        Of the study's outcome; empty where it is not survival.

    Raises
    ------
    MessageError
    """
    if not isinstance(query, CoxBinsQuery | HazardQuery):
        return
    if not np.array_equal(query.ends_days, np.asarray(interval_ends_days, dtype=np.float64)):
        agreed = ", ".join(f"{day:g}" for day in interval_ends_days) or "none"
        raise MessageError(f"query {query.kind}: its interval ends are not those of the study ({agreed} days)")
