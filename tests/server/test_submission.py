"""Following a run to its end, with answers as ``flwr ... --format json`` gives them; `make stock` has the real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.errors import FederationError
from server.submission import Submission


@dataclass(frozen=True)
class Scripted(Submission):
    """A SuperLink that gives every run it gets the next of ``runs``: what is said of it from one look to the next."""

    runs: list[list[str]] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=dict)

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        if arguments[0] == "run":
            number = f"{100 + len(self.submitted)}"
            self.submitted.append(arguments[-1])
            self.known[number] = self.runs.pop(0)
            return {"success": True, "run-id": number}
        said = {number: looks.pop(0) if len(looks) > 1 else looks[0] for number, looks in self.known.items()}
        if "gone" in said.values():
            raise FederationError("flwr list: no answer that can be read")
        return {"success": True, "runs": [{"run-id": number, "status": status} for number, status in said.items()]}


def scripted(folder: Path, *runs: list[str]) -> Scripted:
    return Scripted(Path(), "stock", folder / "study.toml", folder / "out", every_s=0.001, gone_s=0.2, runs=list(runs))


def test_a_complete_study_is_submitted_once(tmp_path: Path) -> None:
    made = scripted(tmp_path, ["pending", "running", "gone", "running", "finished:completed"])
    told: list[str] = []
    made.run(told.append)
    assert made.submitted == [f'study="{tmp_path / "study.toml"}" out="{tmp_path / "out"}"']
    assert told[:3] == ["run 100 submitted", "run 100: pending", "run 100: running"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_failed_is_submitted_again_by_the_next_call(tmp_path: Path) -> None:
    made = scripted(tmp_path, ["running", "finished:failed"], ["running", "finished:completed"])
    with pytest.raises(FederationError, match="run 100 ended as finished:failed"):
        made.run(lambda _: None)
    made.run(lambda _: None)
    assert len(made.submitted) == 2


def test_who_is_started_again_follows_the_run_that_is_under_way(tmp_path: Path) -> None:
    made = scripted(tmp_path, ["running", "gone"])
    with pytest.raises(FederationError, match="no answer"):  # as long as the SuperLink is gone
        made.run(lambda _: None)
    made.known["100"] = ["running", "finished:completed"]
    made.run(lambda _: None)
    assert len(made.submitted) == 1


def test_a_run_that_the_superlink_forgot_is_submitted_again(tmp_path: Path) -> None:
    made = scripted(tmp_path, ["running"], ["finished:completed"])
    made.memory.write_text("99")
    with pytest.raises(FederationError, match="run 99 ended as finished:forgotten"):
        made.run(lambda _: None)
    made.runs.pop(0)
    made.run(lambda _: None)
    assert len(made.submitted) == 1


def test_what_a_person_stopped_stays_stopped(tmp_path: Path) -> None:
    made, told = scripted(tmp_path, ["running", "finished:stopped"]), list[str]()
    made.run(told.append)
    assert "stopped by a person" in told[-1]


def test_the_folder_of_a_first_run_stays_empty(tmp_path: Path) -> None:
    """Because a run is only begun in a folder that holds nothing."""
    made = scripted(tmp_path, ["running", "gone"])
    with pytest.raises(FederationError):
        made.run(lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [".out.submitted"]


def test_a_superlink_that_is_not_there_is_told_with_flowers_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    made = Submission(tmp_path, "nowhere", tmp_path / "study.toml", tmp_path / "out")
    with pytest.raises(FederationError, match="flwr run: "):
        made.run(lambda _: None)
    assert not made.memory.exists()
