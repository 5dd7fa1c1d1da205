"""One approved study on one site's cases: what stands behind each answer of `client.site.Site`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.case_cache import CaseCache
from client.dataset import Dataset, Rows, build_dataset
from client.ingest.manifest import clinical_names, read_manifest
from client.preparation import study_feature_names
from client.training.loop import ModelData, Position, TrainingData, predict, train
from client.worklist import Worklist
from common.arrays import Parameters, difference
from common.config.site import SiteConfig
from common.config.study import StudyConfig, StudyModel
from common.errors import CaseError, Code, GateError, MessageError, StatisticError
from common.evaluation import evaluation_sums
from common.journal import JsonLines
from common.messages import (
    AskStatistic,
    Evaluate,
    EvaluationSums,
    LocalUpdate,
    Prepared,
    Split,
    StatisticSums,
    TableStep,
    Train,
)
from common.models import get_parameters, set_parameters
from common.rng import generator
from common.statistics import decode_query
from common.statistics.procedure import Cohort
from common.statistics.small_cell import release, widen_missing
from common.statistics.table_steps import apply_steps, decode_steps
from common.tables import FeatureTable


@dataclass(frozen=True)
class Trainer:
    """Who trains, and on what: all that differs between hospitals once the cases are prepared."""

    site: str
    device: str
    minimum_cases: int


class StudyAtSite:
    """A study on prepared cases. Keeps nothing that could not be made again from the files."""

    def __init__(self, study: StudyConfig, trainer: Trainer, data: Dataset) -> None:
        self.study = study
        self.trainer = trainer
        self.data = data
        self._task = study.outcome.task()
        self._table = data.features.beside(data.clinical)

    def statistic(self, request: AskStatistic) -> StatisticSums:
        """Sums over the training cases of a fold, after the learned steps."""
        query = decode_query(request.kind, request.values)
        rows = self._rows(request.fold, "train")
        # with several folds the answers to all of them add up to one about every case, so that a difference of answers
        # stands for the held-out cases; with one split nothing is ever asked about those
        held_out = self.data.rows(request.fold, "test") if self.study.n_folds > 1 else None
        sums = release(
            query,
            self._cohort(rows, request.table_steps),
            minimum_cases=self.trainer.minimum_cases,
            withheld=None if held_out is None else self._cohort(held_out, request.table_steps),
        )
        return StatisticSums(len(rows), sums)

    def train(self, request: Train) -> LocalUpdate:
        """One round of local epochs from the request's parameters; the delta leaves.

        Raises
        ------
        StatisticError
            If the training ran away from finite numbers.
        """
        entry = self._entry(request.model)
        if request.round_number > entry.rounds:
            raise MessageError(f"round {request.round_number} of {entry.name}, which has {entry.rounds}")
        rows = self._rows(request.fold, "train")
        inputs = self._inputs(entry, rows, request.table_steps)
        module = self._module(entry, inputs, request.parameters)
        strategy = self.study.federated.strategy.build()
        reference = [parameter.detach().clone() for parameter in module.parameters()]
        result = train(
            module,
            TrainingData(inputs.images, inputs.table, self._task.targets(self.data.outcome.take(rows))),
            task=self._task,
            settings=entry.training,
            position=Position(request.round_number, entry.rounds),
            generator=generator(
                self.study.seed, "train", self.trainer.site, entry.name, request.fold, request.round_number
            ),
            penalty=lambda trained: torch.as_tensor(strategy.penalty(list(trained.parameters()), reference)),
            device=torch.device(self.trainer.device),
        )
        delta = difference(get_parameters(module), request.parameters)
        if not delta.all_finite():
            raise StatisticError(f"round {request.round_number} of {entry.name} ended in numbers that are not finite")
        return LocalUpdate(entry.name, request.round_number, result.n_cases, delta, result.train_loss[-1])

    def evaluate(self, request: Evaluate) -> EvaluationSums:
        """Mergeable sums of the model's predictions on a split."""
        entry = self._entry(request.model)
        rows = self._rows(request.fold, request.split)
        inputs = self._inputs(entry, rows, request.table_steps)
        module = self._module(entry, inputs, request.parameters)
        logits = predict(module, inputs, device=torch.device(self.trainer.device))
        sums = evaluation_sums(
            self._task.link(logits), self.data.outcome.take(rows), minimum_cases=self.trainer.minimum_cases
        )
        return EvaluationSums(entry.name, len(rows), sums)

    def _cohort(self, rows: Rows, steps: tuple[TableStep, ...]) -> Cohort:
        ids = [self._table.case_ids[i] for i in rows]
        raw = Cohort(
            table=self._table.rows(ids),
            clinical=self.data.clinical.rows(ids),
            outcome=self.data.outcome.take(rows),
            batch=tuple(self.data.batch[i] for i in rows),
            seed=self.study.seed,
        )
        widened = widen_missing(raw, minimum_cases=self.trainer.minimum_cases)
        return replace(widened, table=apply_steps(widened.table, decode_steps(steps)))

    def _entry(self, model: str) -> StudyModel:
        try:
            return self.study.study_model(model)
        except KeyError as error:
            raise MessageError(f"the study has no model {model!r}") from error

    def _module(self, entry: StudyModel, inputs: ModelData, parameters: Parameters) -> nn.Module:
        n_columns = 0 if inputs.table is None else inputs.table.shape[1]
        module = entry.model.build(self.study.model_inputs(n_columns))
        try:
            set_parameters(module, parameters)
        except ValueError as error:
            raise MessageError(f"model {entry.name}: {error}") from error
        return module

    def _rows(self, fold: int, split: Split) -> Rows:
        # a fold beyond the last would make training cases of those that are held out
        if not 0 <= fold < self.study.n_folds:
            raise MessageError(f"fold {fold}, the study has {self.study.n_folds}")
        rows = self.data.rows(fold, split)
        if len(rows) < self.trainer.minimum_cases:
            reason = f"{len(rows)} {split} cases in fold {fold}, the minimum here is {self.trainer.minimum_cases}"
            raise GateError(reason, code=Code.SMALL_CELL)
        return rows

    def _applied(self, steps: tuple[TableStep, ...], rows: Rows) -> FeatureTable:
        table = self._table.rows(self._table.case_ids[i] for i in rows)
        return apply_steps(table, decode_steps(steps))

    def _inputs(self, entry: StudyModel, rows: Rows, steps: tuple[TableStep, ...]) -> ModelData:
        patches = self.data.patches
        images = torch.from_numpy(patches[rows]) if entry.model.needs_image and patches is not None else None
        columns: npt.NDArray[np.float64] | None = None
        if entry.model.needs_table:
            columns = self._applied(steps, rows).values
        return ModelData(images, None if columns is None else torch.from_numpy(columns.astype(np.float32)))


class PreparedStudy:
    """The way from the manifest to a `StudyAtSite`: prepares case after case, then opens the study on them."""

    def __init__(self, study: StudyConfig, config: SiteConfig, log: JsonLines) -> None:
        if config.site not in [entry.name for entry in study.sites]:
            raise GateError(f"study {study.name} has no site {config.site}", code=Code.SITE_UNKNOWN)
        self.study = study
        self.config = config
        self._opened: StudyAtSite | None = None
        self._preparation = Worklist(
            read_manifest(config.manifest, study, data=config.data, site=config.site),
            CaseCache(config.state / "cache", study),
            processes=config.processes,
            note=lambda fault: _note(log, fault),
        )

    @property
    def faults(self) -> tuple[CaseError, ...]:
        """Why cases are left out, in sentences for this hospital."""
        return tuple(self._preparation.faults)

    def prepare(self, budget_s: float) -> Prepared:
        """Go on with the pending cases and count."""
        work = self._preparation
        work.advance(budget_s)
        names = study_feature_names(self.study) + clinical_names(self.study.clinical)
        schema = FeatureTable(np.zeros((0, len(names))), names, ()).schema_digest
        exclusions = Counter(str(fault.code) for fault in work.faults)
        return Prepared(work.n_listed, len(work.done), len(work.pending), dict(exclusions), schema, names)

    def close(self) -> None:
        """End the processes that prepare cases."""
        self._preparation.close()

    def opened(self) -> StudyAtSite:
        """The study on all usable cases; after a restart this reads them from the cache first."""
        if self._opened is None:
            self._preparation.advance(float("inf"))
            trainer = Trainer(
                self.config.site,
                self.config.device,
                max(self.config.minimum_cases, self.study.privacy.minimum_cases),
            )
            data = build_dataset(list(self._preparation.done.values()), self.study, site=self.config.site)
            self._opened = StudyAtSite(self.study, trainer, data)
        return self._opened


def _note(log: JsonLines, fault: CaseError) -> None:
    log.write("excluded", case=fault.case_id, code=fault.code, reason=fault.reason)
