"""What is audited: a simulated study's folder, opened with its hospitals' cases and what the study learned of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.dataset import Dataset, global_ids
from client.site import Site
from client.study_at_site import StudyAtSite, Trainer
from common.config.loading import digest, load
from common.config.site import SiteConfig
from common.config.study import StudyConfig, StudyModel
from common.errors import StateError
from common.messages import Landmarks
from common.statistics.procedure import Cohort
from common.statistics.table_steps import Step, apply_steps
from common.tables import FeatureTable
from server.checkpoint import CheckpointStore
from server.courses import FEDERATED, Course
from server.opening import STUDY_FILE, require_run
from server.standardisation import LANDMARKS, landmarks_of_unit
from server.table import steps_from_unit
from server.training_state import TrainingState, unit_name

FOLD = 0
"""The fold that is audited: attacks on one run of the procedure say what each of them lets out."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A study with all its training hospitals' cases in one place. Can be sent to other processes.

    Parameters
    ----------
    datasets : mapping of training site to Dataset
    steps : tuple of Step
        The learned table steps of the federated course.
    """

    study: StudyConfig
    folder: Path
    datasets: Mapping[str, Dataset]
    steps: tuple[Step, ...]

    @property
    def course(self) -> Course:
        return Course(FEDERATED, tuple(sorted(self.datasets)))

    @property
    def trained_models(self) -> tuple[StudyModel, ...]:
        """Models with rounds: those whose updates and parameters can be attacked by gradients and shadows."""
        return tuple(entry for entry in self.study.models if entry.solved is None)

    def state(self, model: str) -> TrainingState:
        """The federated model after its last round.

        Raises
        ------
        StateError
            If the study was cut off before.
        """
        store = CheckpointStore(self.folder / "checkpoints", digest(self.study))
        unit = store.load(unit_name(self.course, model, FOLD))
        if unit is None:
            raise StateError(f"{self.folder} holds no federated training of model {model}; let the study finish first")
        return TrainingState.from_unit(unit)

    def site(self, name: str, *, study: StudyConfig | None = None, data: Dataset | None = None) -> StudyAtSite:
        """A hospital as the study asks it, with other settings or other cases where they are given."""
        chosen = study or self.study
        if chosen.privacy.statistics is not None:  # asked for its training only
            chosen = chosen.model_copy(update={"privacy": chosen.privacy.model_copy(update={"statistics": None})})
        trainer = Trainer(name, "cpu", chosen.privacy.minimum_cases)
        return StudyAtSite(chosen, trainer, data or self.datasets[name])

    def cohort(self, name: str) -> Cohort:
        """All cases of a hospital, trained on or not, as statistics are asked of them."""
        data = self.datasets[name]
        ids = global_ids(data.features.case_ids, name)
        return Cohort(
            table=replace(data.features.beside(data.clinical), case_ids=ids),
            clinical=replace(data.clinical, case_ids=ids),
            outcome=data.outcome,
            batch=data.batch,
            seed=self.study.seed,
        )

    def table(self, name: str) -> FeatureTable:
        """All cases of a hospital after the learned steps, as its training cases were trained on."""
        return apply_steps(self.cohort(name), self.steps, fold=FOLD, unseen="adapt").table

    def trained_on(self, name: str) -> npt.NDArray[np.bool_]:
        """Which cases of a hospital the study trained on."""
        member = np.zeros(self.datasets[name].features.n_cases, dtype=np.bool_)
        member[self.datasets[name].rows(FOLD, "train")] = True
        return member


def open_subject(folder: Path, *, data: Path, processes: int = 1) -> Subject:
    """Open the folder of a finished ``fedrad simulate`` run.

    Parameters
    ----------
    data : Path
        Folder that the study's image patterns start from; prepared cases are read from the run's own cache.

    Raises
    ------
    StateError
        If the folder holds no simulated run, or an unfinished one.
    """
    require_run(folder)
    study = load(folder / STUDY_FILE, StudyConfig)
    store = CheckpointStore(folder / "checkpoints", digest(study))
    saved = store.load(LANDMARKS)
    landmarks = landmarks_of_unit(saved) if saved is not None else {}
    sites = study.training_sites if study.left_out(FOLD) is None else _but(study.training_sites, study.left_out(FOLD))
    datasets = {name: _dataset(folder, study, name, data, landmarks, processes) for name in sites}
    table = store.load(f"table.{FEDERATED}.fold{FOLD}")
    if table is None and any(entry.model.needs_table for entry in study.models):
        raise StateError(f"{folder} holds no learned table; let the study finish first")
    return Subject(study, folder, datasets, steps_from_unit(table) if table is not None else ())


def largest_site(subject: Subject) -> int:
    """Training cases of the hospital that has most: what a delta is chosen by."""
    return max(int(subject.trained_on(site).sum()) for site in subject.course.trainers)


def _but(sites: tuple[str, ...], left_out: str | None) -> tuple[str, ...]:
    return tuple(site for site in sites if site != left_out)


def _dataset(folder: Path, study: StudyConfig, name: str, data: Path, landmarks: Landmarks, processes: int) -> Dataset:
    home = folder.resolve() / "sites" / name
    if not (home / "cases.csv").exists():
        raise StateError(f"{folder} holds no cases of {name}: only a run of fedrad simulate can be audited")
    config = SiteConfig(
        site=name,
        manifest=home / "cases.csv",
        data=data.resolve(),
        state=home / "state",
        processes=processes,
        minimum_cases=study.privacy.minimum_cases,
        studies=(folder.resolve() / STUDY_FILE,),
    )
    site = Site(config, [study], secret="")
    try:
        return site.opened(digest(study), landmarks).data
    finally:
        site.close()
