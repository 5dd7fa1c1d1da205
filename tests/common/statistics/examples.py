"""One query of each kind, valid on `cohorts.cohort(...)`: for the wire's round trip and the merge law."""

from __future__ import annotations

import numpy as np

from common.statistics.moments import MomentQuery
from common.statistics.procedure import Query

NAMES = tuple(f"feature-{j:03d}" for j in range(4))

EXAMPLES: tuple[Query, ...] = (MomentQuery(NAMES, "class", ("class-0", "class-1"), np.full((2, 4), 0.5), 2),)
