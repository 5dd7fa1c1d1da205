"""A study's table on one site's cases: as its own rows say, and after the steps that a request names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from client.dataset import Dataset, Rows, global_ids
from common.config.study import StudyConfig
from common.errors import Code, GateError, MessageError
from common.messages import AskStatistic, Evaluate, Split, Sums, TableStep, Train
from common.statistics.boosting import BoostingQuery
from common.statistics.bounds import Bounds
from common.statistics.forest import ForestQuery
from common.statistics.procedure import Cohort, Query
from common.statistics.small_cell import release, widen_missing
from common.statistics.table_steps import Step, apply_steps, decode_steps
from common.statistics.xgboost_trees import XgboostQuery


class TableAtSite:
    """The cases of one hospital as statistics see them.

    Parameters
    ----------
    secret : str
        Decides which cases a draw holds (`client.draw_secret`).
    minimum_cases : int
        Of the small-cell rule.
    """

    def __init__(self, study: StudyConfig, data: Dataset, *, site: str, secret: str, minimum_cases: int) -> None:
        self._study = study
        self._data = data
        self._minimum_cases = minimum_cases
        self._coded = {name for column in study.clinical if column.kind == "categorical" for name in column.coded_names}
        ids = global_ids(data.features.case_ids, site)
        self._cohort = Cohort(
            table=replace(data.features.beside(data.clinical), case_ids=ids),
            clinical=replace(data.clinical, case_ids=ids),
            outcome=data.outcome,
            batch=data.batch,
            seed=study.seed,
            secret=secret,
        )
        self._latest: tuple[str, tuple[Cohort, Cohort | None]] | None = None

    def rows(self, fold: int, split: Split) -> Rows:
        """Places of the cases of a split.

        Raises
        ------
        MessageError
            If the study has no such fold.
        GateError
            With the code ``small_cell`` where they are fewer than this hospital's minimum.
        """
        # a fold beyond the last would make training cases of those that are held out
        if not 0 <= fold < self._study.n_folds:
            raise MessageError(f"fold {fold}, the study has {self._study.n_folds}")
        rows = self._data.rows(fold, split)
        if len(rows) < self._minimum_cases:
            reason = f"{len(rows)} {split} cases in fold {fold}, the minimum here is {self._minimum_cases}"
            raise GateError(reason, code=Code.SMALL_CELL)
        return rows

    def sums(self, query: Query, request: AskStatistic, rows: Rows) -> Sums:
        """The query's sums over the training cases of a fold, under the small-cell rule."""
        if isinstance(query, BoostingQuery | ForestQuery | XgboostQuery):  # the groups are this hospital's to choose
            query = replace(query, group_size=max(query.group_size, self._minimum_cases))
        cohort, withheld = self._asked(request, rows)
        return release(query, cohort, minimum_cases=self._minimum_cases, withheld=withheld)

    def trained_on(self, request: Train | AskStatistic, rows: Rows) -> Cohort:
        """The training cases of a fold after the request's steps."""
        return apply_steps(self._cohort.take(rows), self._steps(request), fold=request.fold)

    def held_out(self, request: Evaluate, rows: Rows) -> Cohort:
        """Cases whose outcome the steps may not see; a batch that was not in ComBat's fit adapts on all of its cases at
        this site.
        """
        unseen = self._study.table.combat.unseen_sites if self._study.table.combat else None
        steps = self._steps(request)
        return apply_steps(self._cohort, steps, fold=request.fold, unseen=unseen, outcome_known=False).take(rows)

    def _steps(self, request: AskStatistic | Train | Evaluate) -> tuple[Step, ...]:
        """Those of a request. A study without private statistics learns no ranges: crafted ones single out cases."""
        steps = decode_steps(request.table_steps)
        if self._study.privacy.statistics is None and any(isinstance(step, Bounds) for step in steps):
            raise MessageError("ranges of columns are for studies with private statistics, which this one is not")
        return steps

    def _asked(self, request: AskStatistic, rows: Rows) -> tuple[Cohort, Cohort | None]:
        """The training cases of a fold after the steps, and the held-out ones where they need protection too.

        With several folds the answers to all of them add up to one about every case, so that a difference of answers
        stands for the held-out cases; with one split, or one site left out, nothing is ever asked about those. The
        latest pair is kept: a solver asks many questions about the same cases.
        """
        key = _key(request.fold, request.table_steps)
        if self._latest is None or self._latest[0] != key:
            within = self._study.n_folds > 1 and self._study.left_out(request.fold) is None
            held_out = self._data.rows(request.fold, "test") if within else rows[:0]
            withheld = self._released(held_out, request) if len(held_out) else None
            self._latest = key, (self._released(rows, request), withheld)
        return self._latest[1]

    def _released(self, rows: Rows, request: AskStatistic) -> Cohort:
        """Cases that statistics are taken of: no feature is missing in a few of them only (see `widen_missing`)."""
        widened = widen_missing(self._cohort.take(rows), minimum_cases=self._minimum_cases, coded=self._coded)
        return apply_steps(widened, self._steps(request), fold=request.fold)


def _key(fold: int, steps: Sequence[TableStep]) -> str:
    """Equal for equal folds and steps."""
    sha = hashlib.sha256(str(fold).encode())
    for step in steps:
        sha.update(f"\n{step.kind}".encode())
        for name, value in step.values.items():
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            sha.update(f"\n{name} {getattr(value, 'shape', '')} {len(content)} ".encode() + content)
    return sha.hexdigest()
