"""Exports read back with the formats' own readers."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.errors import StateError
from server.export import MLFLOW_FILE, curve, export, run_name
from server.record import StudyResults
from server.results import load_results
from tests.server.finished_study import study_text, write_run

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")


@pytest.fixture
def results(tmp_path: Path) -> StudyResults:
    return load_results([write_run(tmp_path / "run", study_text()).folder])


def test_the_curve_of_all_is_the_mean_over_cases(results: StudyResults) -> None:
    federated = next(training for training in results.trainings if training.course == "federated")
    points = {(point.name, point.step): point.value for point in curve(federated)}
    assert points["train_loss", 2] == pytest.approx((points["train_loss_east", 2] + points["train_loss_north", 2]) / 2)
    assert len(points) == 3 * 3


@needs_tensorboard
def test_tensorboard_reads_the_same_losses(results: StudyResults, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    n = export(results, "tensorboard", tmp_path / "board")
    found = 0
    for training in results.trainings:
        (file,) = (tmp_path / "board" / run_name(training)).iterdir()
        read = {}
        content = file.read_bytes()
        while content:  # TFRecord: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            read |= {(v.tag, event.step): v.simple_value for v in event.summary.value if "train_loss" in v.tag}
        assert read == pytest.approx({(p.name, p.step): p.value for p in curve(training)})
        found += len(read)
    assert found == n > 0


@needs_mlflow
@pytest.mark.filterwarnings("ignore")  # mlflow announces its own future
def test_mlflow_reads_the_same_losses(results: StudyResults, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    export(results, "mlflow", tmp_path / "flow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'flow' / MLFLOW_FILE}")
    experiment = client.get_experiment_by_name("fedrad example")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {run_name(training) for training in results.trainings}
    for training in results.trainings:
        run = runs[run_name(training)]
        history = client.get_metric_history(run.info.run_id, "train_loss")
        expected = {p.step: p.value for p in curve(training) if p.name == "train_loss"}
        assert {entry.step: entry.value for entry in history} == pytest.approx(expected)
        assert run.data.tags["parameters"] == training.sha256


def test_a_missing_package_is_named_with_the_command(
    results: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.export.PACKAGE", {"tensorboard": "no_such_package_here"})
    with pytest.raises(StateError, match=r"pip install 'fedrad\[export\]'"):
        export(results, "tensorboard", tmp_path / "board")


def test_a_folder_with_content_is_left_alone(results: StudyResults, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not empty"):
        export(results, "tensorboard", tmp_path)
