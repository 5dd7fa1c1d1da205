"""One query of each kind, valid on `cohorts.cohort(...)`: for the wire's round trip and the merge law."""

from __future__ import annotations

import numpy as np

from common.statistics.batch_effect import FoldBatchQuery, RecognitionQuery
from common.statistics.combat import CombatCrossQuery, CombatResidualQuery, CombatTotalsQuery
from common.statistics.leakage import BatchOutcomeQuery, CovariateOutcomeQuery
from common.statistics.linear_sums import GramRowsQuery, LinearSumsQuery
from common.statistics.logistic import LogisticQuery
from common.statistics.moments import MomentQuery
from common.statistics.pca import CovarianceProductQuery, CovarianceQuery
from common.statistics.procedure import Query
from common.statistics.quantiles import CountQuery
from common.statistics.stability import DrawnClassSumsQuery, DrawnGramQuery
from tests.common.statistics.model_examples import MODEL_EXAMPLES

NAMES = tuple(f"feature-{j:03d}" for j in range(4))
CLASSES = ("class-0", "class-1")
BATCHES = ("scanner-0", "scanner-1", "scanner-2")
DESIGN = (NAMES, BATCHES, ("age",), ("sex",), (2,), (0.0, 1.0), CLASSES)

EXAMPLES: tuple[Query, ...] = (
    MomentQuery(NAMES, "class", CLASSES, np.full((2, 4), 0.5), 2),
    CombatTotalsQuery(*DESIGN, np.full((3, 4), 1.5), np.full((3, 3), 0.5)),
    CombatCrossQuery(*DESIGN, np.full((3, 4), 1.5), np.full((3, 3), 0.5)),
    CombatResidualQuery(*DESIGN, np.full((3, 4), 1.5), np.full((3, 3), 0.5), np.full((3, 4), 0.1)),
    BatchOutcomeQuery(BATCHES, CLASSES),
    CovariateOutcomeQuery(("age",), ("sex",), (2,), (0.0, 1.0), 1, np.full(3, 0.5)),
    LinearSumsQuery(NAMES, 3, np.full(4, 0.5), 0.25),
    GramRowsQuery(NAMES, (2, 0), 3, np.full(4, 0.5)),
    LogisticQuery(NAMES, (2, 0), 2, np.full(4, 0.5), np.full((3, 2), 0.1), np.full(3, -0.2)),
    CountQuery(NAMES, "class", CLASSES, np.tile([-5.0, 0.0, 0.0, 5.0], (4, 1))),
    CovarianceQuery(NAMES, np.full(4, 0.5)),
    CovarianceProductQuery(NAMES, np.full(4, 0.5), np.eye(4)[:, :2]),
    FoldBatchQuery(NAMES, BATCHES, 2, np.full(4, 0.5)),
    RecognitionQuery(NAMES, BATCHES, 2, np.full(4, 0.5), np.eye(4)[:, :3] * np.ones((2, 1, 1)), np.zeros((2, 3))),
    DrawnClassSumsQuery(NAMES, "half", 0, 3, CLASSES, np.full(4, 0.5)),
    DrawnGramQuery(NAMES, "bootstrap", 2, 2, np.full(4, 0.5), 0.25),
    *MODEL_EXAMPLES,
)
