"""Learning curves and results of a run for TensorBoard or MLflow: written from the record, after or during the study.

Both are optional (``pip install 'fedrad[export]'``) and imported at use. What goes out is what the report shows: losses
by round, the headline measure of each course, the study's digest; nothing of a case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from common.errors import StateError
from server.record import StudyResults, Training

Target = Literal["tensorboard", "mlflow"]
MLFLOW_FILE = "mlflow.db"
PACKAGE = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}


@dataclass(frozen=True)
class Point:
    """One value of a curve; ``step`` is the round."""

    name: str
    step: int
    value: float


def export(results: StudyResults, to: Target, folder: Path) -> int:
    """Write all curves into ``folder``, and return how many points were written.

    Raises
    ------
    StateError
        If the package is not installed, naming the command that installs it; if the folder has content already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} is not empty; name a new folder")
    if find_spec(PACKAGE[to]) is None:
        raise StateError(f"{PACKAGE[to]} is not installed: pip install 'fedrad[export]'")
    folder.mkdir(parents=True, exist_ok=True)
    return _to_tensorboard(results, folder) if to == "tensorboard" else _to_mlflow(results, folder)


def curve(training: Training) -> Iterator[Point]:
    """Training loss by round: of all sites together, weighted by their cases, and of each."""
    rounds = sorted({entry.round_number for entry in training.history})
    for number in rounds:
        own = [entry for entry in training.history if entry.round_number == number]
        n_cases = sum(entry.n_cases for entry in own)
        yield Point("train_loss", number, sum(entry.n_cases * entry.train_loss for entry in own) / n_cases)
        for entry in own:
            yield Point(f"train_loss_{entry.site}", number, entry.train_loss)


def run_name(training: Training) -> str:
    return f"{training.model}-{training.course}-fold{training.fold + 1}"


def _to_tensorboard(results: StudyResults, folder: Path) -> int:
    from tensorboardX import SummaryWriter

    n = 0
    for training in results.trainings:
        with SummaryWriter(logdir=str(folder / run_name(training))) as writer:
            writer.add_text("study", f"{results.study.name} {results.study_digest}")
            for point in curve(training):
                writer.add_scalar(point.name, point.value, point.step)
                n += 1
    return n


def _to_mlflow(results: StudyResults, folder: Path) -> int:
    """Into ``mlflow.db`` (SQLite) in the folder: no server, no network."""
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / MLFLOW_FILE}")
    artifacts = (folder.resolve() / "artifacts").as_uri()
    experiment = client.create_experiment(f"fedrad {results.study.name}", artifact_location=artifacts)
    n = 0
    for training in results.trainings:
        tags = {"study": results.study.name, "study_digest": results.study_digest, "parameters": training.sha256}
        run = client.create_run(experiment, run_name=run_name(training), tags=tags)
        for key, value in (("model", training.model), ("course", training.course), ("fold", training.fold + 1)):
            client.log_param(run.info.run_id, key, value)
        for point in curve(training):
            client.log_metric(run.info.run_id, point.name, point.value, step=point.step)
            n += 1
        client.set_terminated(run.info.run_id)
    return n
