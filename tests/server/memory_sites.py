"""Sites on random numbers in memory: what the tests of the coordinator ask instead of hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

import numpy as np

from client.dataset import Dataset, assign_folds
from client.exchange import Exchange
from client.private_release import PrivateRelease
from client.study_at_site import StudyAtSite, Trainer
from common.config.loading import digest, parse
from common.config.private_statistics import cost_of_a_question
from common.config.study import StudyConfig
from common.errors import FedradError
from common.journal import JsonLines
from common.messages import (
    AskStatistic,
    Done,
    Evaluate,
    Hello,
    Prepare,
    Prepared,
    PrivacyEvent,
    Refusal,
    Reply,
    Request,
    Train,
    Welcome,
)
from common.outcomes import ClassOutcome
from common.rng import SystemNoise, generator
from common.tables import FeatureTable
from common.version import versions
from server.checkpoint import CheckpointStore
from server.conversation import Conversation
from server.courses import groups_of
from server.study import run_study
from server.training_state import TrainingState
from simulations.in_process import Answers, Disturbance, InProcessFederation

STUDY = """
name = "memory"
title = "Random numbers"
seed = 11
local_only = true
sites = [{ name = "a" }, { name = "b" }, { name = "c" }, { name = "x", role = "external" }]
outcome = { kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"] }
images = [{ name = "ct", modality = "CT", image = "{case_id}.nii", roi = "{case_id}_roi.nii" }]
radiomics = [{ image = "ct", preset = "fast" }]
patch = { images = ["ct"], spacing_mm = [1, 1, 1], shape = [4, 4, 4] }
split = { kind = "holdout", test_fraction = 0.4 }
federated = { quorum = 2 }
privacy = { minimum_cases = 1 }

[[models]]
name = "logistic"
rounds = 3
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.2, batch_size = 8 }

[[models]]
name = "cnn"
rounds = 2
model = { kind = "cnn3d", channels = [8], blocks = 0 }
training = { learning_rate = 0.002, batch_size = 8 }
"""

N_CASES = {"a": 18, "b": 14, "c": 10, "x": 9}
N_FEATURES = 5


def study(*changes: tuple[str, str]) -> StudyConfig:
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text, StudyConfig, source="study.toml")


def dataset(of: StudyConfig, site: str, n: int, *, missing: float = 0.1) -> Dataset:
    """Features on quite different scales, one of them constant and one never present, some values missing."""
    rng = generator(0, "dataset", site)
    ids = tuple(f"{site}{i:03d}" for i in range(n))
    labels = (rng.random(n) < 0.5).astype(np.int64)
    values = rng.normal(size=(n, N_FEATURES)) * np.logspace(-3, 5, N_FEATURES) + 10.0 ** np.arange(N_FEATURES)
    values[:, 0] += labels * 1e-3
    values[rng.random(values.shape) < missing] = np.nan
    values[:, 3], values[:, 4] = 7.0, np.nan
    patches = rng.normal(size=(n, 2, 4, 4, 4)).astype(np.float32)
    patches[:, 1] = 0
    patches[:, 1, 1:3, 1:3, 1:3] = 1
    outcome = ClassOutcome(labels, ("no", "yes"))
    return Dataset(
        features=FeatureTable(values, tuple(f"f{j}" for j in range(N_FEATURES)), ids),
        clinical=FeatureTable(rng.normal(60, 9, size=(n, 1)), ("age",), ids),
        patches=patches,
        outcome=outcome,
        batch=(site,) * n,
        tested_in=assign_folds(ids, labels.tolist(), of, trains=site in of.training_sites, site=site),
        trains=site in of.training_sites,
    )


class MemorySite:
    """Answers like `client.site.Site` from a `Dataset`, and keeps what it was asked."""

    def __init__(self, of: StudyConfig, site: str, data: Dataset, *, state: Path | None = None) -> None:
        self.site = site
        self.asked: list[Request] = []
        self.spent: list[PrivacyEvent] = []
        private = None
        if of.privacy.statistics is not None:
            private = PrivateRelease(cost_of_a_question(of), self.spent.extend, SystemNoise(site.encode().ljust(32)))
        self._opened = StudyAtSite(of, Trainer(site, "cpu", of.privacy.minimum_cases), data, private=private)
        folder = state or Path(gettempdir()) / f"fedrad-{uuid4()}"  # made only if the study compresses
        self.notes: list[str] = []
        self.exchange = Exchange(of, site, folder, self.notes.append)

    def answer(self, request: Request) -> Reply:
        self.asked.append(request)
        try:
            return self._answer(request)
        except FedradError as error:
            return Refusal(error.code)

    def _answer(self, request: Request) -> Reply:
        data = self._opened.data
        if isinstance(request, Hello):
            return Welcome(self.site, versions())
        if isinstance(request, Prepare):
            names = data.features.names + data.clinical.names
            n = data.features.n_cases
            return Prepared(n, n, 0, {}, FeatureTable(np.zeros((0, len(names))), names, ()).schema_digest, names)
        if isinstance(request, AskStatistic):
            return self._opened.statistic(request)
        if isinstance(request, Train):
            whole = self.exchange.opened(request)
            return self.exchange.packed(whole, self._opened.train(whole))
        if isinstance(request, Evaluate):
            return self._opened.evaluate(request)
        return Done()


def members(of: StudyConfig, folder: Path | None = None) -> dict[str, MemorySite]:
    """Sites whose residuals, if the study has any, lie below ``folder``."""
    states = {site: folder / "sites" / site if folder else None for site in N_CASES}
    return {site: MemorySite(of, site, dataset(of, site, n), state=states[site]) for site, n in N_CASES.items()}


def conversation(of: StudyConfig, sites: dict[str, Answers], folder: Path, **settings: object) -> Conversation:
    federation = InProcessFederation(sites, **settings)  # type: ignore[arg-type]  # threads, disturb
    return Conversation(federation, JsonLines(folder / "events.jsonl"), digest(of))


def run(
    of: StudyConfig,
    folder: Path,
    *,
    disturb: Disturbance | None = None,
    threads: int = 1,
    sites: dict[str, MemorySite] | None = None,
) -> CheckpointStore:
    """The whole study on memory sites, or what is left of it in ``folder``."""
    store = CheckpointStore(folder / "checkpoints", digest(of))
    journal = JsonLines(folder / "events.jsonl")
    asked: dict[str, Answers] = dict(sites if sites is not None else members(of))
    with InProcessFederation(asked, threads=threads, disturb=disturb) as federation:
        run_study(of, federation, groups=groups_of(of), store=store, journal=journal)
    return store


def final_digests(store: CheckpointStore) -> dict[str, str]:
    """Digest of the last parameters of every course, model and fold."""
    found = {}
    for name in store.names():
        unit = store.load(name)
        if name.startswith("training.") and unit is not None:
            found[name] = TrainingState.from_unit(unit).parameters.digest()
    return found


def events(folder: Path, event: str) -> Sequence[dict[str, object]]:
    return [line for line in JsonLines(folder / "events.jsonl").read() if line["event"] == event]
