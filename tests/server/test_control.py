"""Pause, resume, abort: what a person says holds, over restarts too, and the numbers do not change."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from common.config.loading import digest
from common.errors import AbortedError, StateError
from common.federation import Answer
from common.journal import JsonLines
from common.messages import Prepare, Request, Train
from server.checkpoint import CheckpointStore
from server.control import CONTROL_FILE, ControlledFederation, Order, StudyControl
from server.courses import groups_of
from server.opening import JOURNAL_FILE
from server.status import StudyStatus
from server.study import run_study
from simulations.in_process import InProcessFederation
from tests.deployment import until
from tests.server.memory_sites import events, final_digests, members, run, study

ONE_MODEL = (("local_only = true", "local_only = false"),)


def journal_of(folder: Path) -> JsonLines:
    return JsonLines(folder / JOURNAL_FILE)


def controlled(folder: Path) -> None:
    """One start of a study that heeds its control file."""
    of, journal = study(*ONE_MODEL), journal_of(folder)
    control = StudyControl(folder)
    with InProcessFederation(members(of)) as federation:
        store = CheckpointStore(folder / "checkpoints", digest(of))
        run_study(
            of, ControlledFederation(federation, control, journal), groups=groups_of(of), store=store, journal=journal
        )


def rounds(folder: Path) -> int:
    return len(events(folder, "round")) if (folder / JOURNAL_FILE).exists() else 0


def test_nothing_was_said_means_run(tmp_path: Path) -> None:
    assert StudyControl(tmp_path).order() == Order("run", "", "")


@pytest.mark.parametrize("content", ["", "[]", '{"wish": "stop"}', '{"colour": "red"}', "null"])
def test_a_damaged_file_is_not_guessed_at(tmp_path: Path, content: str) -> None:
    (tmp_path / CONTROL_FILE).write_text(content)
    with pytest.raises(StateError, match=CONTROL_FILE):
        StudyControl(tmp_path).order()


def test_a_paused_study_waits_is_resumed_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    plain, paused = tmp_path / "plain", tmp_path / "paused"
    run(study(*ONE_MODEL), plain)
    control = StudyControl(paused)
    paused.mkdir()
    control.give("pause", by="anna", journal=journal_of(paused))
    thread = threading.Thread(target=controlled, args=(paused,))
    thread.start()
    until(lambda: len(events(paused, "paused")) == 1)
    threading.Event().wait(0.7)
    assert events(paused, "asked") != []  # the question was announced, and is held
    assert not events(paused, "answer")
    control.give("run", by="ben", journal=journal_of(paused))
    thread.join(60)
    assert [line["by"] for line in events(paused, "resumed")] == ["ben"]
    assert [(line["wish"], line["by"]) for line in events(paused, "control")] == [("pause", "anna"), ("run", "ben")]
    stores = [CheckpointStore(folder / "checkpoints", digest(study(*ONE_MODEL))) for folder in (plain, paused)]
    assert final_digests(stores[0]) == final_digests(stores[1]) != {}


def test_an_aborted_study_stops_after_an_answer_and_does_not_go_on(tmp_path: Path) -> None:
    class Stopping(ControlledFederation):
        """Somebody aborts while the first round's answers come in."""

        def ask(self, requests, *, deadline_s):  # type: ignore[no-untyped-def]
            if any(isinstance(request, Train) for request in requests.values()):
                control.give("abort", by="anna", journal=journal)
            return super().ask(requests, deadline_s=deadline_s)

    of, journal, control = study(*ONE_MODEL), journal_of(tmp_path), StudyControl(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", digest(of))
    with InProcessFederation(members(of)) as federation, pytest.raises(AbortedError, match="by anna"):
        run_study(of, Stopping(federation, control, journal), groups=groups_of(of), store=store, journal=journal)
    assert rounds(tmp_path) == 0
    with pytest.raises(AbortedError):
        controlled(tmp_path)
    with pytest.raises(AbortedError):
        control.give("run", by="ben", journal=journal)


def test_an_abort_is_heeded_between_two_answers(tmp_path: Path) -> None:
    class Sites:
        def sites(self) -> tuple[str, ...]:
            return ("a", "b")

        def ask(self, requests, *, deadline_s):  # type: ignore[no-untyped-def]
            for site in requests:
                yield Answer(site, None, 0, 0, 0.0)  # type: ignore[arg-type]

    control = StudyControl(tmp_path)
    federation = ControlledFederation(Sites(), control, journal_of(tmp_path))
    request: Request = Prepare("digest", 1.0)
    answers = federation.ask({"a": request, "b": request}, deadline_s=1.0)
    assert next(answers).site == "a"
    control.give("abort", by="anna", journal=journal_of(tmp_path))
    with pytest.raises(AbortedError):
        next(answers)


def test_a_pause_does_not_hold_what_is_being_prepared(tmp_path: Path) -> None:
    class Sites:
        def sites(self) -> tuple[str, ...]:
            return ("a",)

        def ask(self, requests, *, deadline_s):  # type: ignore[no-untyped-def]
            return iter([Answer("a", None, 0, 0, 0.0)])  # type: ignore[arg-type]

    StudyControl(tmp_path).give("pause", by="anna", journal=journal_of(tmp_path))
    federation = ControlledFederation(Sites(), StudyControl(tmp_path), journal_of(tmp_path))
    assert [a.site for a in federation.ask({"a": Prepare("digest", 1.0)}, deadline_s=1.0)] == ["a"]


def test_the_status_follows_from_the_journal(tmp_path: Path) -> None:
    controlled(tmp_path)
    status = StudyStatus.of(journal_of(tmp_path).read())
    assert (status.state, status.phase, status.asked) == ("finished", "finished", ())
    assert set(status.sites) == {"a", "b", "c", "x"}
    assert list(status.curves["cnn", "federated", 0]) == [1, 2]
    assert status.curves["cnn", "federated", 0][2] == status.rounds["cnn", "federated", 0][2]
    answers = events(tmp_path, "answer")
    assert status.sites["a"].bytes_up == sum(line["bytes_up"] for line in answers if line["site"] == "a")
    assert "train cnn" in status.phase_seconds
    assert status.recent[-1].text == "the study has finished"


def test_the_journal_can_be_followed_from_where_one_stopped(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert journal.read_from(0) == ([], 0)
    journal.write("note", text="one")
    lines, offset = journal.read_from(0)
    assert [line["text"] for line in lines] == ["one"]
    with journal.path.open("ab") as file:
        file.write(b'{"event": "note", "te')  # a line that is being written
    assert journal.read_from(offset) == ([], offset)
    journal.write("note", text="two")
    lines, end = journal.read_from(offset)
    assert [line["text"] for line in lines] == ["two"]
    assert end == journal.path.stat().st_size
