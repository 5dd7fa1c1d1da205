"""Federated statistics: the closed union of the questions that a study may put to a site's table.

A new query class is one line in `QUERIES` (a test fails where it is forgotten). Nothing outside this union can be
asked: `decode_query` is how a site reads a question from the wire.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import MessageError
from common.statistics.batch_effect import FoldBatchQuery, RecognitionQuery
from common.statistics.boosting import BoostingQuery
from common.statistics.codec import FieldValue, decode_fields, encode_fields
from common.statistics.combat import CombatCrossQuery, CombatResidualQuery, CombatTotalsQuery
from common.statistics.cox import CoxBinsQuery, CoxStrataQuery
from common.statistics.discrete_survival import HazardQuery
from common.statistics.forest import ForestQuery
from common.statistics.leakage import BatchOutcomeQuery, CovariateOutcomeQuery
from common.statistics.linear_sums import GramRowsQuery, LinearSumsQuery
from common.statistics.logistic import LogisticQuery
from common.statistics.margins import MarginQuery
from common.statistics.moments import MomentQuery
from common.statistics.pca import CovarianceProductQuery, CovarianceQuery
from common.statistics.procedure import Query
from common.statistics.quantiles import CountQuery
from common.statistics.stability import DrawnClassSumsQuery, DrawnGramQuery
from common.statistics.xgboost_trees import XgboostQuery

QUERIES: tuple[type[Query], ...] = (
    MomentQuery,
    CombatTotalsQuery,
    CombatCrossQuery,
    CombatResidualQuery,
    BatchOutcomeQuery,
    CovariateOutcomeQuery,
    LinearSumsQuery,
    GramRowsQuery,
    LogisticQuery,
    CountQuery,
    CovarianceQuery,
    CovarianceProductQuery,
    FoldBatchQuery,
    RecognitionQuery,
    DrawnClassSumsQuery,
    DrawnGramQuery,
    CoxStrataQuery,
    CoxBinsQuery,
    ForestQuery,
    BoostingQuery,
    XgboostQuery,
    MarginQuery,
    HazardQuery,
)
"""Every question there is."""

_BY_KIND = {query_class.kind: query_class for query_class in QUERIES}


def encode_query(query: Query) -> tuple[str, dict[str, FieldValue]]:
    """Kind and plain field values of a query, for the wire."""
    if _BY_KIND.get(query.kind) is not type(query):
        raise MessageError(f"{type(query).__name__} is not a query of the union")
    return query.kind, encode_fields(query)


def decode_query(kind: str, values: Mapping[str, object]) -> Query:
    """The query that arrived as ``kind`` and field ``values``; MessageError where anything is not as agreed."""
    query_class = _BY_KIND.get(kind)
    if query_class is None:
        raise MessageError(f"no query of kind {kind!r}; there are {', '.join(sorted(_BY_KIND))}")
    return decode_fields(query_class, values)
