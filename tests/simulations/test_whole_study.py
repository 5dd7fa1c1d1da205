"""The whole study in one process: it ends, is repeatable bit by bit, and goes on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config.loading import digest
from common.journal import JsonLines
from common.messages import Refusal
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.report import write_report
from server.results import load_results
from simulations.run import Cohort, simulate
from tests.over_flower import final_digests
from tests.small_study import STUDY, write_study


def run(
    cohort: Cohort,
    folder: Path,
    *,
    threads: int = 1,
    stop_at: int | None = None,
    resume: bool = False,
    baselines: bool = False,
) -> dict[str, str]:
    """Digests of the final parameters by unit; with ``stop_at`` the run is interrupted after that many rounds."""
    study_file, study = write_study(folder)
    rounds = 0

    def interrupt(line: dict[str, Any]) -> None:
        nonlocal rounds
        rounds += line["event"] == "round"
        if stop_at is not None and rounds == stop_at:
            raise KeyboardInterrupt

    opened = open_run(study_file, folder / "run", resume=resume, listener=interrupt)
    simulate(opened.study, cohort, out=folder / "run", journal=opened.journal, threads=threads, baselines=baselines)
    return final_digests(folder / "run", study)


@pytest.fixture(scope="module")
def undisturbed(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run(cohort, tmp_path_factory.mktemp("undisturbed"))


def test_threads_do_not_change_a_bit(cohort: Cohort, undisturbed: dict[str, str], tmp_path: Path) -> None:
    assert sum(name.startswith("training.") for name in undisturbed) == 2
    assert run(cohort, tmp_path, threads=3) == undisturbed


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_interrupted_and_resumed_ends_with_the_same_parameters(
    cohort: Cohort, undisturbed: dict[str, str], tmp_path: Path, stop_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path, stop_at=stop_at)
    assert run(cohort, tmp_path, resume=True) == undisturbed


def test_baselines_train_the_same_models_on_other_cases(
    cohort: Cohort, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    digests = run(cohort, tmp_path, baselines=True)
    assert {name: digests[name] for name in undisturbed} == undisturbed
    assert {name.split(".")[1] for name in digests} == {"federated", "pooled"}
    assert digests["training.pooled.radiomics.fold0"] != digests["training.federated.radiomics.fold0"]


def test_journal_counts_every_answer(cohort: Cohort, tmp_path: Path) -> None:
    run(cohort, tmp_path)
    answers = [line for line in JsonLines(tmp_path / "run" / "events.jsonl").read() if line["event"] == "answer"]
    assert {line["site"] for line in answers} == {"east", "north", "south"}
    trained = [line for line in answers if line["request"] == "Train"]
    assert len(trained) == 3 * (3 + 3)
    assert all(line["bytes_up"] > 0 and line["bytes_down"] > 0 for line in answers)
    assert not [line for line in answers if line["reply"] == Refusal.__name__]


def test_a_study_of_images_alone_needs_no_table(cohort: Cohort, tmp_path: Path) -> None:
    head, network = STUDY.split('[[models]]\nname = "radiomics"')[0], STUDY[STUDY.index('[[models]]\nname = "cnn"') :]
    lines = [line for line in head.splitlines() if not line.startswith(("clinical", "radiomics"))]
    study_file, study = write_study(tmp_path, "\n".join(lines) + "\n" + network)
    opened = open_run(study_file, tmp_path / "run", resume=False)
    simulate(opened.study, cohort, out=tmp_path / "run", journal=opened.journal)
    results = load_results([tmp_path / "run"])
    write_report(results, tmp_path / "report.html")
    assert "cnn" in (tmp_path / "report.html").read_text()
    assert CheckpointStore(tmp_path / "run" / "checkpoints", digest(study)).load("training.federated.cnn.fold0")
