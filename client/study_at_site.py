"""One approved study on one site's cases: what stands behind each answer of `client.site.Site`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.dataset import Dataset, Rows
from client.outbound import filtered
from client.private_release import PrivateRelease, Reserve
from client.subgroups import sums_by_level
from client.table_at_site import TableAtSite
from client.training.loop import (
    ChosenImages,
    ModelData,
    Penalty,
    Position,
    TrainingData,
    TrainingResult,
    predict,
    train,
)
from common.arrays import Parameters, difference
from common.config.gate import OutboundConfig
from common.config.study import ScalarOutcomeConfig, StudyConfig, StudyModel
from common.errors import MessageError, PrivacyError, StatisticError
from common.evaluation import evaluation_sums
from common.messages import (
    AskStatistic,
    Evaluate,
    EvaluationSums,
    LocalUpdate,
    Prepared,
    PrivacyEvent,
    StatisticSums,
    Train,
)
from common.models.networks.centre import trained_parameters
from common.models.weights import get_parameters, set_parameters
from common.outcomes import ClassOutcome
from common.privacy.central import protected
from common.rng import NoiseSource, SystemNoise, generator
from common.statistics import decode_query
from common.statistics.agreed_times import require_agreed_times
from common.statistics.procedure import Query
from common.statistics.solution import decode_solution
from common.statistics.table_steps import decode_steps, limits_after
from common.strategies.interface import Strategy
from common.tables import FeatureTable

if TYPE_CHECKING:
    from client.training.privacy_plan import Plan


@dataclass(frozen=True)
class Trainer:
    """Who trains, and on what: all that differs between hospitals once the cases are prepared.

    ``secret`` decides which cases a draw holds (`client.draw_secret`); empty in simulations, whose draws are then those
    of the pooled reference. ``new_noise`` makes the source of noise and sampling of one private round; tests fix it.
    ``reserve`` writes the cost of a private round down before it is trained, or raises where it does not fit; a
    simulated pooled site, which no hospital runs, has no ledger.
    ``updates`` is what this hospital takes off an update before it leaves.
    """

    site: str
    device: str
    minimum_cases: int
    secret: str = ""
    new_noise: Callable[[], NoiseSource] = SystemNoise
    reserve: Reserve | None = None
    updates: OutboundConfig = field(default_factory=OutboundConfig)


class StudyAtSite:
    """A study on prepared cases. Keeps nothing that could not be made again from the files.

    Parameters
    ----------
    private : PrivateRelease, optional
        How statistics and scores leave; a study with private statistics does not open without it.
    """

    def __init__(
        self, study: StudyConfig, trainer: Trainer, data: Dataset, *, private: PrivateRelease | None = None
    ) -> None:
        if (private is None) != (study.privacy.statistics is None):
            raise PrivacyError(f"study {study.name}: private statistics need a ledger, and a ledger such a study")
        self._private = private
        self.study = study
        self.trainer = trainer
        self.data = data
        self._task = study.outcome.task()
        self._table = TableAtSite(
            study, data, site=trainer.site, secret=trainer.secret, minimum_cases=trainer.minimum_cases
        )
        self._modules: dict[tuple[str, int], nn.Module] = {}

    def statistic(self, request: AskStatistic) -> StatisticSums:
        """Sums over the training cases of a fold, after the learned steps."""
        query = decode_query(request.kind, request.values)
        require_agreed_times(query, interval_ends_days=self.study.target.interval_ends_days)
        rows = self._table.rows(request.fold, "train")
        if self._private is not None:
            return self._private_statistic(self._private, query, request, rows)
        return StatisticSums(len(rows), self._table.sums(query, request, rows))

    def _private_statistic(
        self, private: PrivateRelease, query: Query, request: AskStatistic, rows: Rows
    ) -> StatisticSums:
        """Every step changes rows one by one, so a case is behind its own row alone; small cells are left to noise."""
        limits = limits_after(decode_steps(request.table_steps))  # first: refuses what could fail on some cases only
        cohort = self._table.trained_on(request, rows)
        return StatisticSums(len(rows), private.statistic(query, cohort, limits), (private.cost,))

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
        model, settings = entry.trained
        if self._private is not None and model.needs_table:
            limits_after(decode_steps(request.table_steps))  # refuses what could fail on some cases only
        rows = self._table.rows(request.fold, "train")
        inputs = self._inputs(entry, rows, self._table.trained_on(request, rows).table if model.needs_table else None)
        module = self._module(entry, inputs, request.parameters)
        cost = self.cost(request)
        if cost and self.trainer.reserve is not None:
            self.trainer.reserve(cost)
        penalty = _penalty(self.study.federated.strategy.build(), module)
        data = TrainingData(inputs.images, inputs.table, self._task.targets(self.data.outcome.take(rows)))
        position, device = Position(request.round_number, entry.rounds), torch.device(self.trainer.device)

        if model.centred and request.round_number == 1:
            result = self._centred(module, data, request)
        elif self.study.privacy.sample_level is not None:
            from client.training.dp_sgd import train_private  # here: torch.func is loaded by studies that need it

            result = train_private(
                module,
                data,
                task=self._task,
                settings=settings,
                position=position,
                mechanism=self._privacy_plan[entry.name, request.fold],
                source=self.trainer.new_noise(),
                penalty=penalty,
                device=device,
            )
        else:
            stream = ("train", self.trainer.site, entry.name, request.fold, request.round_number)
            result = train(
                module,
                data,
                task=self._task,
                settings=settings,
                position=position,
                generator=generator(self.study.seed, *stream),
                penalty=penalty,
                device=device,
            )
        delta = difference(get_parameters(module), request.parameters)
        if not delta.all_finite():
            raise StatisticError(f"round {request.round_number} of {entry.name} ended in numbers that are not finite")
        delta = filtered(delta, self.trainer.updates, model=entry.name)
        update = LocalUpdate(entry.name, request.round_number, result.n_cases, delta, result.train_loss[-1], cost)
        return self._site_level(update, request)

    def cost(self, request: Train) -> tuple[PrivacyEvent, ...]:
        """What an answer will cost, known before anything is computed; none where the study has no sample-level
        privacy, and so no bound.
        """
        if self.study.privacy.sample_level is None:
            return ()
        self._table.rows(request.fold, "train")
        entry = self._entry(request.model)
        mechanism = self._privacy_plan[entry.name, request.fold]
        return (mechanism.once.event if entry.trained[0].centred and request.round_number == 1 else mechanism.event,)

    def _centred(self, module: nn.Module, data: TrainingData, request: Train) -> TrainingResult:
        """The first round of a centred model, which learns its features' means."""
        from client.training.centring import learn_centre, learn_centre_private

        device = torch.device(self.trainer.device)
        if self.study.privacy.sample_level is None:
            return learn_centre(module, data, task=self._task, device=device)
        mechanism = self._privacy_plan[request.model, request.fold]
        source = self.trainer.new_noise()
        return learn_centre_private(module, data, task=self._task, mechanism=mechanism, source=source, device=device)

    def _site_level(self, update: LocalUpdate, request: Train) -> LocalUpdate:
        """Where the study protects whole data sets: scaled down to the norm, without loss and number of cases."""
        level = self.study.privacy.site_level
        if level is None or self.trainer.site not in self.study.training_sites:  # the pooled reference has no noise
            return update
        if (request.clipping_norm > 0) != (level.adaptive is not None):
            raise MessageError(f"clipping norm {request.clipping_norm:g} in a request, against what the study says")
        return protected(update, clipping_norm=request.clipping_norm or level.clipping_norm)

    def evaluate(self, request: Evaluate) -> EvaluationSums:
        """Mergeable sums of the model's predictions on a split, and of those of each subgroup."""
        entry = self._entry(request.model)
        rows = self._table.rows(request.fold, request.split)
        if self._private is not None:
            limits_after(decode_steps(request.table_steps))  # refuses what could fail on some cases only
        predicted = self._predicted(entry, request, rows)
        outcome, minimum = self.data.outcome.take(rows), self.trainer.minimum_cases
        if self._private is not None:
            if not isinstance(outcome, ClassOutcome):
                raise PrivacyError(f"scores of a {type(outcome).__name__} have no private version")
            private_sums = self._private.scores(predicted, outcome.labels)
            return EvaluationSums(entry.name, len(rows), private_sums, (self._private.cost,))
        centre = self.study.outcome.centre if isinstance(self.study.outcome, ScalarOutcomeConfig) else 0.0
        sums = dict(evaluation_sums(predicted, outcome, minimum_cases=minimum, centre=centre))
        if isinstance(outcome, ClassOutcome):
            for config in self.study.evaluation.subgroups:
                cells = [self.data.labels[config.column][i] for i in rows]
                sums |= sums_by_level(config, cells, predicted, outcome.labels, minimum_cases=minimum)
        return EvaluationSums(entry.name, len(rows), sums)

    @cached_property
    def _privacy_plan(self) -> Plan:
        from client.training.privacy_plan import privacy_plan

        privacy = self.study.privacy.sample_level
        assert privacy is not None  # asked for in no other study
        n_cases = {fold: len(self.data.rows(fold, "train")) for fold in range(self.study.n_folds)}
        alone = self.study.local_only and self.study.n_training > 1 and self.trainer.site in self.study.training_sites
        return privacy_plan(self.study, privacy, n_cases, n_courses=2 if alone else 1)

    def _predicted(self, entry: StudyModel, request: Evaluate, rows: Rows) -> npt.NDArray[np.float64]:
        table = self._table.held_out(request, rows).table if entry.model.needs_table else None
        if entry.solved is not None:
            if table is None or not request.solution:
                raise MessageError(f"model {entry.name} is solved, and no solution came with the request")
            return decode_solution(request.solution).predict(table)
        if request.solution:
            raise MessageError(f"model {entry.name} is trained; a solution came with the request")
        inputs = self._inputs(entry, rows, table)
        module = self._module(entry, inputs, request.parameters)
        return self._task.link(predict(module, inputs, device=torch.device(self.trainer.device)))

    def _entry(self, model: str) -> StudyModel:
        try:
            return self.study.study_model(model)
        except KeyError as error:
            raise MessageError(f"the study has no model {model!r}") from error

    def _module(self, entry: StudyModel, inputs: ModelData, parameters: Parameters) -> nn.Module:
        n_columns = 0 if inputs.table is None else inputs.table.shape[1]
        key = entry.name, n_columns
        if key not in self._modules:  # every weight is set below, whatever the module held
            self._modules[key] = entry.trained[0].build(self.study.model_inputs(n_columns))
        module = self._modules[key]
        try:
            set_parameters(module, parameters)
        except ValueError as error:
            raise MessageError(f"model {entry.name}: {error}") from error
        return module

    def _inputs(self, entry: StudyModel, rows: Rows, table: FeatureTable | None) -> ModelData:
        patches = self.data.patches
        images = None
        if entry.model.needs_image and patches is not None:
            images = ChosenImages(torch.from_numpy(patches), torch.from_numpy(rows))
        return ModelData(images, None if table is None else torch.from_numpy(table.values.astype(np.float32)))


def _penalty(strategy: Strategy, module: nn.Module) -> Penalty | None:
    """What the strategy adds to the loss as the parameters leave the module's; None where it adds nothing."""
    now = trained_parameters(module)
    with torch.no_grad():
        if not isinstance(strategy.penalty(now, now), torch.Tensor):
            return None
    start = [parameter.detach().clone() for parameter in now]

    def penalty(trained: nn.Module) -> torch.Tensor:
        return torch.as_tensor(strategy.penalty(list(trained_parameters(trained)), start))

    return penalty


def declared(counts: Prepared, study: StudyConfig, data: Dataset) -> Prepared:
    """The counts with what the study has to agree on before its statistics: batches, and columns without any value."""
    trained_on = data.trains and study.table.combat is not None
    values = np.hstack([data.features.values, data.clinical.values])
    missing = np.isnan(values).sum(axis=0) == len(values)
    return replace(
        counts,
        batches=tuple(sorted(set(data.batch))) if trained_on else (),
        absent=tuple(name for name, empty in zip(counts.feature_names, missing, strict=True) if empty),
    )
