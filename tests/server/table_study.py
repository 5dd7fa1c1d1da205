"""Studies of tables alone, in memory: sites with scanners, clinical columns and any kind of outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.dataset import Dataset, assign_folds, strata
from client.study_at_site import declared
from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.journal import JsonLines
from common.messages import Prepare, Prepared, Reply, Request
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome, SurvivalOutcome
from common.rng import generator
from common.tables import FeatureTable
from server.checkpoint import CheckpointStore
from server.courses import groups_of
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.study import run_study
from simulations.in_process import Answers, InProcessFederation
from tests.server.memory_sites import MemorySite

OUTCOMES = {
    "classes": 'kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"]',
    "three": 'kind = "classification", column = "y", values = ["0", "1", "2"], names = ["low", "middle", "high"]',
    "number": 'kind = "regression", column = "y", unit = "ml", centre = 3',
    "survival": 'kind = "survival", event_column = "e", event_values = ["1"], censored_values = ["0"],'
    ' time_column = "t", interval_ends_days = [200, 500, 900]',
}

STUDY = """
name = "table"
title = "Tables"
seed = 11
sites = [{{ name = "a" }}, {{ name = "b" }}, {{ name = "c" }}, {{ name = "x", role = "external" }}]
outcome = {{ {outcome} }}
images = [{{ name = "ct", modality = "CT", image = "{{case_id}}.nii", roi = "{{case_id}}_roi.nii" }}]
radiomics = [{{ image = "ct", preset = "fast" }}]
clinical = [
  {{ column = "age", kind = "numeric", missing = "exclude" }},
  {{ column = "sex", kind = "categorical", values = ["f", "m"] }},
]
split = {{ kind = "holdout", test_fraction = 0.3 }}
privacy = {{ minimum_cases = {minimum} }}
{table}
{models}
"""

N_CASES = {"a": 80, "b": 70, "c": 60, "x": 40}
N_FEATURES = 12


def table_study(kind: str, *, models: str, table: str = "", minimum: int = 3) -> StudyConfig:
    text = STUDY.format(outcome=OUTCOMES[kind], models=models, table=table, minimum=minimum)
    return parse(text, StudyConfig, source="study.toml")


def rows(kind: str, site: str, n: int) -> tuple[np.ndarray, np.ndarray, Outcome]:
    """Features with signal, shift and scale of the site; clinical columns; an outcome."""
    rng = generator(3, "rows", site)
    shared = generator(4, "loadings")
    risk = rng.normal(size=n)
    values = rng.normal(size=(n, N_FEATURES)) + np.outer(
        risk, shared.uniform(0.6, 1.2, N_FEATURES) * (np.arange(N_FEATURES) < 5)
    )
    values[:, 6] = values[:, 0] + 0.01 * rng.normal(size=n)
    values = values * np.exp(0.2 * rng.normal(size=N_FEATURES)) + 0.2 * rng.normal(size=N_FEATURES)
    clinical = np.column_stack([np.round(rng.normal(60, 9, size=n)), rng.integers(0, 2, n)]).astype(np.float64)
    if kind in ("classes", "three"):
        cuts, names = ((0.0,), ("no", "yes")) if kind == "classes" else ((-0.5, 0.5), ("low", "middle", "high"))
        labels = np.searchsorted(cuts, risk + 0.7 * rng.normal(size=n))
        return values, clinical, ClassOutcome(labels.astype(np.int64), names)
    if kind == "number":
        return values, clinical, ScalarOutcome(3 + risk + 0.3 * rng.normal(size=n), "ml")
    time = rng.exponential(500 * np.exp(-risk)) + 1
    ended = rng.exponential(900, size=n) + 1
    return values, clinical, SurvivalOutcome(time <= ended, np.minimum(time, ended))


def dataset(of: StudyConfig, kind: str, site: str, n: int) -> Dataset:
    values, clinical, outcome = rows(kind, site, n)
    ids = tuple(f"{site}{i:03d}" for i in range(n))
    trains = site in of.training_sites
    sex = tuple("m" if row[1] else "f" for row in clinical)
    return Dataset(
        features=FeatureTable(values, tuple(f"f{j:02d}" for j in range(N_FEATURES)), ids),
        clinical=FeatureTable(clinical, of.clinical_names, ids),
        patches=None,
        outcome=outcome,
        batch=(site,) * n,
        tested_in=assign_folds(ids, strata(outcome), of, trains=trains, site=site),
        trains=trains,
        labels={"sex": sex},
    )


class TableSite(MemorySite):
    """Declares its batches too."""

    def _answer(self, request: Request) -> Reply:
        reply = super()._answer(request)
        if isinstance(request, Prepare) and isinstance(reply, Prepared):
            return declared(reply, self._opened.study, self._opened.data)
        return reply


def run(of: StudyConfig, kind: str, folder: Path, *, sites: Sequence[str] = tuple(N_CASES)) -> CheckpointStore:
    """The whole study in memory; ``folder`` is then that of a run, which a report can be written of."""
    folder.mkdir(exist_ok=True)
    members: dict[str, Answers] = {site: TableSite(of, site, dataset(of, kind, site, N_CASES[site])) for site in sites}
    store = CheckpointStore(folder / "checkpoints", digest(of))
    with InProcessFederation(members) as federation:
        run_study(of, federation, groups=groups_of(of), store=store, journal=JsonLines(folder / JOURNAL_FILE))
    return store


def write_study_file(text: str, folder: Path) -> None:
    (folder / STUDY_FILE).write_text(text)
