"""The reference that a federation is measured against: all training cases in one place. Exists in simulations only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from client.dataset import Dataset
from client.exchange import Exchange, residuals_of
from client.preparation import table_names
from client.side_tables import SideTable
from client.site import Site
from client.study_at_site import StudyAtSite, Trainer, declared
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FedradError, MessageError
from common.messages import (
    TRAINING,
    AskStatistic,
    Done,
    Evaluate,
    Finish,
    Hello,
    Landmarks,
    MaskingRequest,
    Prepare,
    Prepared,
    Refusal,
    Reply,
    Request,
    Train,
    Welcome,
)
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome, SurvivalOutcome
from common.tables import FeatureTable
from common.version import versions
from server.courses import POOLED


class PooledSite:
    """Answers like one hospital that holds the training cases of all; the split is each hospital's own.

    Parameters
    ----------
    sites : sequence of Site
        The training sites, in sorted order of names.
    """

    def __init__(self, study: StudyConfig, sites: Sequence[Site]) -> None:
        self._study = study
        self._sites = sites
        self._study_here: StudyAtSite | None = None
        self._landmarks: Landmarks = {}
        state = sites[0].config.state.with_name(f"state-{POOLED}")
        self._exchange = Exchange(study, POOLED, residuals_of(state, digest(study)), self._lost_residual)

    def answer(self, request: Request) -> Reply:
        try:
            if isinstance(request, Hello):
                return Welcome(POOLED, versions())
            if isinstance(request, Finish):
                return Done()
            if isinstance(request, MaskingRequest):
                raise MessageError("the pooled reference stands alone, there is nothing to mask")
            return self._about_cases(request)
        except FedradError as error:
            return Refusal(error.code)

    def _lost_residual(self, reason: str) -> None:
        self._sites[0].log.write("residual", reason=f"{POOLED}: {reason}")

    def _about_cases(self, request: Prepare | AskStatistic | Train | Evaluate) -> Reply:
        if isinstance(request, Prepare | AskStatistic) and request.table != TRAINING:
            side = self._side_table(request.table, request.landmarks)
            if isinstance(request, AskStatistic):
                return side.statistic(request, minimum_cases=self._study.privacy.minimum_cases)
            names = table_names(self._study, request.table.partition(".")[2])
            return _counted(side.cohort.table.n_cases, names)
        if self._landmarks != request.landmarks or self._study_here is None:
            self._study_here, self._landmarks = self._pooled(request.landmarks), request.landmarks
        if isinstance(request, Prepare):
            data = self._study_here.data
            counts = _counted(data.features.n_cases, data.features.names + data.clinical.names)
            return declared(counts, self._study, data)
        if isinstance(request, AskStatistic):
            return self._study_here.statistic(request)
        if isinstance(request, Train):
            whole = self._exchange.opened(request)
            return self._exchange.packed(whole, self._study_here.train(whole))
        if request.split == "train":
            return self._study_here.evaluate(request)  # calibration; test cases are scored at their hospitals
        return Refusal(Code.GATE)

    def _pooled(self, landmarks: Landmarks) -> StudyAtSite:
        key = digest(self._study)
        parts = [(site.config.site, site.opened(key, landmarks).data) for site in self._sites]
        trainer = Trainer(POOLED, self._sites[0].config.device, self._study.privacy.minimum_cases)
        return StudyAtSite(self._study, trainer, pool(parts))

    def _side_table(self, table: str, landmarks: Landmarks) -> SideTable:
        key = digest(self._study)
        parts = [site.side_table(key, table, landmarks) for site in self._sites]
        return pool_side_tables(parts)


def _counted(n: int, names: tuple[str, ...]) -> Prepared:
    return Prepared(n, n, 0, {}, FeatureTable(np.zeros((0, len(names))), names, ()).schema_digest, names)


def pool(parts: Sequence[tuple[str, Dataset]]) -> Dataset:
    """The rows of all parts in one dataset; case ids get their site's name, because two hospitals may share one."""
    ids = tuple(f"{site}/{case_id}" for site, part in parts for case_id in part.features.case_ids)
    data = [part for _, part in parts]
    patches = [part.patches for part in data if part.patches is not None]
    return Dataset(
        features=FeatureTable(np.vstack([part.features.values for part in data]), data[0].features.names, ids),
        clinical=FeatureTable(np.vstack([part.clinical.values for part in data]), data[0].clinical.names, ids),
        patches=np.concatenate(patches) if patches else None,
        outcome=_pool_outcomes([part.outcome for part in data]),
        batch=tuple(batch for part in data for batch in part.batch),
        tested_in=np.concatenate([part.tested_in for part in data]),
        trains=True,
        labels={column: tuple(label for part in data for label in part.labels[column]) for column in data[0].labels},
    )


def pool_side_tables(parts: Sequence[SideTable]) -> SideTable:
    """The rows of all parts in one table; their ids have their site's name already."""
    cohorts = [part.cohort for part in parts]
    names = cohorts[0].table.names
    ids = tuple(case_id for cohort in cohorts for case_id in cohort.table.case_ids)
    pooled = replace(
        cohorts[0],
        table=FeatureTable(np.vstack([cohort.table.values for cohort in cohorts]), names, ids),
        clinical=FeatureTable(np.zeros((len(ids), 0)), (), ids),
        outcome=_pool_outcomes([cohort.outcome for cohort in cohorts]),
        batch=tuple(batch for cohort in cohorts for batch in cohort.batch),
    )
    tested_in = np.concatenate([part.tested_in for part in parts])
    return SideTable(pooled, tested_in, parts[0].n_folds, parts[0].on_scale)


def _pool_outcomes(parts: Sequence[Outcome]) -> Outcome:
    first = parts[0]
    if isinstance(first, ClassOutcome):
        labels = [part.labels for part in parts if isinstance(part, ClassOutcome)]
        return ClassOutcome(np.concatenate(labels), first.classes)
    if isinstance(first, ScalarOutcome):
        return ScalarOutcome(np.concatenate([p.values for p in parts if isinstance(p, ScalarOutcome)]), first.unit)
    events = [part.event for part in parts if isinstance(part, SurvivalOutcome)]
    times = [part.time_days for part in parts if isinstance(part, SurvivalOutcome)]
    return SurvivalOutcome(np.concatenate(events), np.concatenate(times))
