"""The queue: what is due, and that an approval is of the study, not of a file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import StateError
from server.queue import StudyQueue
from tests.server.finished_study import study_text


def queue_with(home: Path, **files: str) -> StudyQueue:
    queue = StudyQueue(home, approval=True)
    queue.create()
    for name, text in files.items():
        (home / "queue" / f"{name}.toml").write_text(text)
    return queue


def test_without_approval_all_is_due_in_order_of_names(tmp_path: Path) -> None:
    queue_with(tmp_path, b=study_text(), a=study_text(folds=2))
    assert [entry.file.name for entry in StudyQueue(tmp_path).due()] == ["a.toml", "b.toml"]


def test_a_study_waits_for_its_approval_which_survives_a_restart(tmp_path: Path) -> None:
    queue = queue_with(tmp_path, a=study_text())
    (entry,) = queue.entries()
    assert (entry.name, entry.approved_by, queue.due()) == ("example", "", ())
    queue.approve(entry.digest, by="anna")
    (due,) = StudyQueue(tmp_path, approval=True).due()
    assert due.approved_by == "anna"


def test_a_file_that_is_changed_after_its_approval_waits_again(tmp_path: Path) -> None:
    queue = queue_with(tmp_path, a=study_text())
    queue.approve(queue.entries()[0].digest, by="anna")
    (tmp_path / "queue" / "a.toml").write_text(study_text(folds=3))
    assert queue.due() == ()


def test_a_digest_that_is_not_in_the_queue_cannot_be_approved(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no study"):
        queue_with(tmp_path, a=study_text()).approve("0" * 64, by="anna")


def test_a_file_with_faults_is_due_at_once_to_be_set_aside(tmp_path: Path) -> None:
    (entry,) = queue_with(tmp_path, bad="title = 3\n").due()
    assert "name: missing" in entry.fault
    assert entry.name == "bad"
