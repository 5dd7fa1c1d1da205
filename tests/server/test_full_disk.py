"""A disk that is full or read-only: the study stops, names the file, and goes on once it can write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from client.draw_secret import draw_secret
from client.identity import make_identity
from client.privacy_budget import PrivacyBudget
from client.site import Site
from client.site_file import load_site
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError, StateError
from common.files import PARTIAL, write_atomic
from common.journal import JsonLines
from common.messages import Hello, PrivacyEvent, Refusal, Welcome
from common.version import versions
from server.opening import open_run
from server.training_state import TrainingState
from simulations.run import Cohort, simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.over_flower import final_digests

SITES = ("east", "north")

STOPPED = r"cannot write .*/disk/run/.*(No space left on device|disk may be full|Read-only)|east state; 3 north state"
"""The coordinator names its file; where the sites, whose state is on the same disk, meet it first, they send a code."""


class Disk:
    """A file system of its own, of a few hundred kB; unmounted at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling = folder / "filling"

    def fill(self) -> None:
        with self._filling.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._filling.unlink()

    def read_only(self, yes: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig, Cohort, dict[str, str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    study_file, study = write_study(folder, SITES, rounds=3)
    cohort = write_cases(folder, SITES)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    return study_file, study, cohort, final_digests(folder / "run", study)


def test_a_full_disk_leaves_the_former_file_whole_and_is_named(disk: Disk) -> None:
    path = disk.folder / "unit"
    write_atomic(path, b"former")
    disk.fill()
    with pytest.raises(StateError, match=rf"cannot write {path}.*No space left on device"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"former"
    assert not list(disk.folder.glob(f"{PARTIAL}*"))
    disk.free()
    write_atomic(path, b"latter")
    assert path.read_bytes() == b"latter"


def test_a_journal_on_a_full_disk_names_itself_and_stays_readable(disk: Disk) -> None:
    journal = JsonLines(disk.folder / "events.jsonl")
    journal.write("before")
    disk.fill()
    with pytest.raises(StateError, match=r"events\.jsonl"):
        _write_until_full(journal)
    disk.free()
    journal.write("after")
    events = [line["event"] for line in journal.read()]
    assert (events[0], events[-1]) == ("before", "after")
    assert set(events) <= {"before", "full", "after"}


def _write_until_full(journal: JsonLines) -> None:
    for _ in range(10_000):
        journal.write("full", text="x" * 100)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_site_that_cannot_write_lets_nothing_out_and_answers_again_afterwards(
    disk: Disk, tmp_path: Path, how: str
) -> None:
    made = tiny_consortium(_new(tmp_path / "made"), SITES, rounds=1)
    config, studies = load_site(made.hospital("east") / "site.toml")
    site = Site(config.model_copy(update={"state": disk.folder / "state", "coordinator": None}), studies)
    request = Hello(digest(studies[0]), versions())
    assert isinstance(site.answer(request), Welcome)
    disk.fill() if how == "full" else disk.read_only(True)
    replies = [site.answer(request) for _ in range(50)]
    assert isinstance(replies[-1], Refusal)
    assert replies[-1].code == Code.STATE
    disk.free() if how == "full" else disk.read_only(False)
    assert isinstance(site.answer(request), Welcome)
    site.close()


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_site_that_begins_on_a_disk_it_cannot_write_says_so_and_begins_afterwards(
    disk: Disk, tmp_path: Path, how: str
) -> None:
    """Nothing half-written stays that would stop it when there is room again."""
    made = tiny_consortium(_new(tmp_path / "made"), SITES, rounds=1)
    config, studies = load_site(made.hospital("east") / "site.toml")
    own = config.model_copy(update={"state": disk.folder / "state", "coordinator": None})
    own.state.mkdir()
    disk.fill() if how == "full" else disk.read_only(True)
    for begin in (
        lambda: Site(own, studies),
        lambda: draw_secret(own.state),
        lambda: make_identity(own.state, site="east"),
    ):
        with pytest.raises(StateError, match=r"cannot (write|open) .*/disk/state/"):
            begin()
    disk.free() if how == "full" else disk.read_only(False)
    assert make_identity(own.state, site="east")
    assert isinstance(Site(own, studies).answer(Hello(digest(studies[0]), versions())), Welcome)


def test_a_ledger_on_a_read_only_disk_refuses_and_says_which_file(disk: Disk) -> None:
    ledger = PrivacyBudget(disk.folder / "budget", 8.0, 1e-5)
    disk.read_only(True)
    with pytest.raises(StateError, match=r"cannot write .*/budget/budget.lock: Read-only"):
        ledger.reserve("d", [PrivacyEvent("gaussian", 2.0, 1.0, 1)])
    with pytest.raises(StateError, match=r"cannot write .*/other: Read-only"):
        PrivacyBudget(disk.folder / "other", 8.0, 1e-5)
    disk.read_only(False)
    ledger.reserve("d", [PrivacyEvent("gaussian", 2.0, 1.0, 1)])


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_study_stops_and_goes_on_to_the_same_bits(
    disk: Disk, undisturbed: tuple[Path, StudyConfig, Cohort, dict[str, str]], how: str
) -> None:
    study_file, study, cohort, expected = undisturbed
    run = disk.folder / "run"

    def in_the_middle(line: dict[str, object]) -> None:
        if line["event"] == "round" and line["round_number"] == 2 and not resumed:
            disk.fill() if how == "full" else disk.read_only(True)

    resumed = False
    opened = open_run(study_file, run, resume=False, listener=in_the_middle)
    with pytest.raises((StateError, FederationError), match=STOPPED):
        simulate(study, cohort, out=run, journal=opened.journal, baselines=False)
    assert not list(run.rglob(f"{PARTIAL}*"))
    unit = opened.store.load("training.federated.clinical.fold0")
    assert unit is not None
    assert TrainingState.from_unit(unit).round_number == 2

    disk.free() if how == "full" else disk.read_only(False)
    resumed = True
    opened = open_run(study_file, run, resume=True)
    simulate(study, cohort, out=run, journal=opened.journal, baselines=False)
    assert final_digests(run, study) == expected
