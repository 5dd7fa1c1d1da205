"""A small study on random numbers, as an audit opens it: what the tests of the attacks share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.dataset import NEVER_TESTED, Dataset
from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.outcomes import ClassOutcome
from common.rng import generator
from common.statistics.moments import Scaler
from common.strategies import ServerState
from common.tables import FeatureTable
from server.checkpoint import CheckpointStore
from server.training_state import TrainingState, unit_name
from simulations.audit.retraining import retrain
from simulations.audit.subject import FOLD, Subject

STUDY = """
name = "audited"
title = "Random numbers, audited"
seed = 11
site_column = "site"
sites = [{ name = "a" }, { name = "b" }]
outcome = { kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"] }
images = [{ name = "ct", modality = "CT", image = "{case_id}.nii", roi = "{case_id}_roi.nii" }]
radiomics = [{ image = "ct", preset = "fast" }]
patch = { images = ["ct"], spacing_mm = [1, 1, 1], shape = [8, 8, 8], window = [0, 1] }
split = { kind = "holdout", test_fraction = 0.5 }
privacy = { minimum_cases = 1 }

[[models]]
name = "logistic"
rounds = 4
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.2, batch_size = 8 }

[[models]]
name = "overfit"
rounds = 12
model = { kind = "mlp", hidden = [32] }
training = { learning_rate = 0.02, batch_size = 8, local_epochs = 4 }

[[models]]
name = "cnn"
rounds = 1
model = { kind = "cnn3d", channels = [16, 16] }
training = { learning_rate = 0.002, batch_size = 8 }
"""

N_CASES = {"a": 40, "b": 30}
N_FEATURES = 12
NAMES = tuple(f"f{j}" for j in range(N_FEATURES))


def study(*changes: tuple[str, str]) -> StudyConfig:
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text, StudyConfig, source="study.toml")


def subject(
    folder: Path,
    of: StudyConfig | None = None,
    *,
    random_labels: bool = True,
    n_cases: Mapping[str, int] = N_CASES,
) -> Subject:
    """A study whose labels are coin tosses, so that whatever a model knows of a case it has by heart.

    With ``random_labels`` False the first feature decides.
    """
    chosen = of or study()
    (folder / "sites").mkdir(parents=True)
    datasets = {site: _dataset(site, n, folder, random_labels=random_labels) for site, n in n_cases.items()}
    return Subject(chosen, folder, datasets, (Scaler(NAMES, np.zeros(N_FEATURES), np.ones(N_FEATURES)),))


def with_trainings(of: Subject, *models: str) -> Subject:
    """The subject with finished trainings in its folder, as a study leaves them."""
    store = CheckpointStore(of.folder / "checkpoints", digest(of.study))
    for name in models:
        entry = of.study.study_model(name)
        state = TrainingState(entry.rounds, retrain(of, entry).parameters, ServerState())
        store.save(unit_name(of.course, name, FOLD), state.to_unit())
    return of


def _dataset(site: str, n: int, folder: Path, *, random_labels: bool) -> Dataset:
    rng = generator(0, "audited", site)
    ids = tuple(f"{site}{i:03d}" for i in range(n))
    values = rng.normal(size=(n, N_FEATURES))
    labels = (rng.random(n) < 0.5).astype(np.int64) if random_labels else (values[:, 0] > 0).astype(np.int64)
    home = folder / "sites" / site
    home.mkdir()
    cells = [f"{case_id},{'f' if values[i, 1] > 0 else 'm'}" for i, case_id in enumerate(ids)]
    (home / "cases.csv").write_text("\n".join(["case_id,sex", *cells]) + "\n")
    tested = np.where(np.arange(n) % 2 == 0, FOLD, NEVER_TESTED)
    return Dataset(
        features=FeatureTable(values, NAMES, ids),
        clinical=FeatureTable(np.zeros((n, 0)), (), ids),
        patches=_balls(rng, n),
        outcome=ClassOutcome(labels, ("no", "yes")),
        batch=(site,) * n,
        tested_in=tested.astype(np.int64),
        trains=True,
    )


def _balls(rng: np.random.Generator, n: int) -> np.ndarray:
    """Balls of different size and place on noise, with the ball as ROI, shape (n, 2, 8, 8, 8)."""
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij"))
    patches = np.empty((n, 2, 8, 8, 8), dtype=np.float32)
    for i in range(n):
        centre, radius = rng.uniform(2.5, 4.5, size=(3, 1, 1, 1)), rng.uniform(1.5, 3.0)
        inside = ((grid - centre) ** 2).sum(axis=0) < radius**2
        patches[i, 0] = np.clip(0.15 + 0.6 * inside + 0.03 * rng.normal(size=inside.shape), 0, 1)
        patches[i, 1] = inside
    return patches
