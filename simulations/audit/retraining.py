"""Training a model of the study again, on other cases or settings, by the study's own code.

The hospitals are `client.study_at_site.StudyAtSite` and the rounds are `server.training.train_group`: whatever protects
an update in the study protects it here, because nothing of it is written twice. With the study's own cases and seed a
model without privacy noise comes out bit-identical, which the audit checks before it believes itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import cast

import numpy as np
import torch

from client.dataset import Dataset, Rows
from client.exchange import Exchange
from client.study_at_site import StudyAtSite
from client.training.loop import ModelData, predict
from common.arrays import Parameters, add
from common.config.loading import digest
from common.config.study import StudyConfig, StudyModel
from common.errors import FedradError
from common.federation import Answer
from common.journal import JsonLines
from common.messages import LocalUpdate, Refusal, Reply, Request, Train
from common.models import initial_parameters
from common.models.weights import set_parameters
from common.rng import derived_seed
from common.statistics.table_steps import columns_after
from common.strategies import ServerState
from server.checkpoint import CheckpointStore
from server.conversation import Conversation
from server.training import train_group
from server.training_state import TrainingState, unit_name
from simulations.audit.intervals import Scores
from simulations.audit.subject import FOLD, Subject

OBSERVED_ROUNDS = 4
"""Rounds whose single updates are attacked; a coordinator could look at all."""


@dataclass(frozen=True, eq=False)
class Retrained:
    """What came of a training, as two attackers see it.

    Parameters
    ----------
    parameters : Parameters
        The finished model: what everyone sees who is handed it.
    updates : mapping of site to pairs of Parameters
        Parameters before and after one hospital's own update, of a few rounds: what a coordinator sees without secure
        aggregation.
    """

    parameters: Parameters
    updates: Mapping[str, tuple[tuple[Parameters, Parameters], ...]]


class TrainingFederation:
    """`Federation` of hospitals in this process that are asked to train, and nothing else.

    Attributes
    ----------
    updates : dict of site to pairs of Parameters
        Before and after each kept round, as `Retrained` has them.
    """

    def __init__(
        self,
        members: Mapping[str, StudyAtSite],
        exchanges: Mapping[str, Exchange],
        *,
        kept_rounds: Collection[int],
    ) -> None:
        self._members = dict(members)
        self._exchanges = dict(exchanges)
        self._kept_rounds = kept_rounds
        self.updates: dict[str, list[tuple[Parameters, Parameters]]] = {site: [] for site in members}

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        for site in sorted(requests):
            started = perf_counter()
            reply = self._reply(site, cast(Train, requests[site]))
            yield Answer(site, reply, 0, 0, perf_counter() - started)

    def _reply(self, site: str, request: Train) -> Reply:
        try:
            exchange = self._exchanges[site]
            whole = exchange.opened(request)
            update: LocalUpdate = self._members[site].train(whole)
            sent = exchange.packed(whole, update)
        except FedradError as error:
            return Refusal(error.code)
        if request.round_number in self._kept_rounds:
            self.updates[site].append((whole.parameters, add(whole.parameters, update.delta)))
        return sent


def retrain(
    subject: Subject,
    entry: StudyModel,
    *,
    study: StudyConfig | None = None,
    datasets: Mapping[str, Dataset] | None = None,
    seed: int | None = None,
    start: Parameters | None = None,
) -> Retrained:
    """All rounds of one model.

    Parameters
    ----------
    study : StudyConfig, optional
        With other settings, for example without a protection.
    datasets : mapping of site to Dataset, optional
        Other cases, or another split of them.
    seed : int, optional
        Of batches and augmentation; the initial parameters stay the study's, which all parties know.
    start : Parameters, optional
        In place of the study's initial parameters.
    """
    base = study or subject.study
    seeded = base if seed is None else base.model_copy(update={"seed": seed})
    chosen = datasets or subject.datasets
    members = {name: subject.site(name, study=seeded, data=chosen[name]) for name in subject.course.trainers}
    with TemporaryDirectory(prefix="fedrad-audit-") as folder:
        exchanges = {name: Exchange(seeded, name, Path(folder) / name, _ignored) for name in members}
        federation = TrainingFederation(members, exchanges, kept_rounds=observed_rounds(entry.rounds))
        store = CheckpointStore(Path(folder) / "checkpoints", digest(seeded))
        begin = TrainingState(0, start or initial(subject, entry), ServerState())
        store.save(unit_name(subject.course, entry.name, FOLD), begin.to_unit())
        conversation = Conversation(federation, JsonLines(Path(folder) / "events.jsonl"), digest(seeded))
        tables = {subject.course.name: subject.steps}
        states = train_group(seeded, entry, (subject.course,), FOLD, tables, conversation, store)
        updates = {site: tuple(pairs) for site, pairs in federation.updates.items()}
    return Retrained(states[subject.course.name].parameters, updates)


def _ignored(note: str) -> None:
    """A fresh folder has no residual that could be unusable."""


def observed_rounds(rounds: int) -> frozenset[int]:
    """A few rounds spread over the training: the first, and none at the end, where the learning rate has fallen."""
    return frozenset(1 + (rounds * part) // OBSERVED_ROUNDS for part in range(OBSERVED_ROUNDS))


def initial(subject: Subject, entry: StudyModel) -> Parameters:
    """The study's initial parameters of a model: a function of the study file, known to all parties."""
    columns = len(columns_after(subject.steps, ())) if entry.model.needs_table else 0
    seed = derived_seed(subject.study.seed, "initial", entry.name)
    return initial_parameters(entry.trained[0], subject.study.model_inputs(columns), seed)


def redrawn(data: Dataset, members: Rows) -> Dataset:
    """The hospital's cases with exactly ``members`` trained on."""
    tested = np.full(data.features.n_cases, FOLD, dtype=np.int64)
    tested[members] = FOLD + 1
    return replace(data, tested_in=tested)


def confidences(subject: Subject, entry: StudyModel, parameters: Parameters, site: str) -> Scores:
    """How sure the model is of each case's true outcome, shape (n_cases,); higher is surer.

    Of two classes, the log-odds of the true one, which is near a Gaussian over trainings (Carlini et al. 2022, equation
    4 and figure 4); of other outcomes, minus the log of the loss.
    """
    data = subject.datasets[site]
    table = torch.from_numpy(subject.table(site).values.astype(np.float32)) if entry.model.needs_table else None
    images = torch.from_numpy(data.patches) if entry.model.needs_image and data.patches is not None else None
    module = entry.trained[0].build(subject.study.model_inputs(0 if table is None else table.shape[1]))
    set_parameters(module, parameters)
    logits = torch.from_numpy(predict(module, ModelData(images, table)))
    task = subject.study.outcome.task()
    loss = task.loss(logits, task.targets(data.outcome)).numpy().astype(np.float64)
    if logits.shape[1] == 1 and subject.study.outcome.kind == "classification":
        return _log_odds(loss)
    return -np.log(np.maximum(loss, LEAST_LOSS))


LEAST_LOSS = 1e-12
"""Keeps the log of a loss finite."""


def _log_odds(loss: Scores) -> Scores:
    """``ln(p / (1 - p))`` of the true class, from its cross-entropy ``-ln p``."""
    bounded = np.maximum(loss, LEAST_LOSS)
    return np.asarray(-bounded - np.log(-np.expm1(-bounded)), dtype=np.float64)
