"""The reference that a federation is measured against: all training cases in one place. Exists in simulations only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from client.dataset import Dataset
from client.site import Site
from client.study_at_site import StudyAtSite, Trainer, declared
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FedradError
from common.messages import (
    AskStatistic,
    Done,
    Evaluate,
    Finish,
    Hello,
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

    def answer(self, request: Request) -> Reply:
        try:
            if isinstance(request, Hello):
                return Welcome(POOLED, versions())
            if isinstance(request, Prepare):
                return self._prepared()
            if isinstance(request, AskStatistic):
                return self._opened.statistic(request)
            if isinstance(request, Train):
                return self._opened.train(request)
            if isinstance(request, Evaluate) and request.split == "train":
                return self._opened.evaluate(request)  # calibration; test cases are scored at their hospitals
            if isinstance(request, Finish):
                return Done()
        except FedradError as error:
            return Refusal(error.code)
        return Refusal(Code.GATE)

    def _prepared(self) -> Prepared:
        data = self._opened.data
        names = data.features.names + data.clinical.names
        schema = FeatureTable(np.zeros((0, len(names))), names, ()).schema_digest
        n = data.features.n_cases
        return declared(Prepared(n, n, 0, {}, schema, names), self._study, data)

    @cached_property
    def _opened(self) -> StudyAtSite:
        key = digest(self._study)
        parts = [site.opened(key).data for site in self._sites]
        trainer = Trainer(POOLED, self._sites[0].config.device, self._study.privacy.minimum_cases)
        return StudyAtSite(
            self._study, trainer, pool([(s.config.site, d) for s, d in zip(self._sites, parts, strict=True)])
        )


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
        labels={
            column: tuple(label for part in data for label in part.labels[column]) for column in data[0].labels
        },
    )


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
