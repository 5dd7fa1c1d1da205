"""The work list: rows end as a case or a fault, in any number of processes, and none is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import pytest

from client.case_cache import CaseCache
from client.ingest.manifest import CaseRow, Manifest
from client.preparation import PreparedCase
from client.worklist import Worklist
from common.errors import CaseError, Code, StateError


class Cases:
    """Stands in for `CaseCache`: what happens is in the case's id. Pickled to processes."""

    def __init__(self, heal: Path | None = None) -> None:
        self.heal = heal

    def get(self, case: CaseRow) -> PreparedCase:
        if case.case_id.startswith("bad"):
            raise CaseError(case.case_id, "is bad", code=Code.ROI_EMPTY)
        if case.case_id.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        if case.case_id.startswith("full") and not (self.heal and self.heal.exists()):
            raise StateError("cannot write: disk full")
        return PreparedCase(case.case_id, np.zeros(1), None, ())


def worklist(*ids: str, processes: int = 1, cases: Cases | None = None) -> Worklist:
    rows = tuple(CaseRow(case_id, "north", {}, {}, (0.0,)) for case_id in ids)
    manifest = Manifest(rows, (CaseError("listed", "not at all", code=Code.FILE_MISSING),))
    return Worklist(manifest, cast(CaseCache, cases or Cases()), processes=processes, note=lambda fault: None)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("budget_s", [0.0, float("inf")])
def test_every_row_ends_as_a_case_or_a_fault(processes: int, budget_s: float):
    work = worklist("a", "bad1", "b", "c", "bad2", "d", processes=processes)
    assert work.n_listed == 7
    before = len(work.pending)
    while work.pending:
        work.advance(budget_s)
        assert len(work.pending) < before
        before = len(work.pending)
        assert work.n_listed == 7
    assert sorted(work.done) == ["a", "b", "c", "d"]
    assert {fault.case_id: fault.code for fault in work.faults} == {
        "listed": Code.FILE_MISSING,
        "bad1": Code.ROI_EMPTY,
        "bad2": Code.ROI_EMPTY,
    }
    assert str(work.faults[1]).endswith("is bad")


def test_with_nothing_pending_nothing_happens():
    work = worklist()
    work.advance(1.0)
    assert (work.n_listed, len(work.faults)) == (1, 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_that_is_no_fault_of_a_case_leaves_it_pending(tmp_path: Path, processes: int):
    heal = tmp_path / "heal"
    work = worklist("a", "full", "b", processes=processes, cases=Cases(heal))
    with pytest.raises(StateError):
        work.advance(float("inf"))
    assert work.n_listed == 4
    assert "full" in [case.case_id for case in work.pending]
    heal.touch()
    work.advance(float("inf"))
    assert sorted(work.done) == ["a", "b", "full"]
    work.close()


def test_a_case_that_kills_its_process_is_found_and_left_out():
    work = worklist("a", "b", "deadly", "c", "d", "e", processes=2)
    for _ in range(6):
        work.advance(float("inf"))
    assert sorted(work.done) == ["a", "b", "c", "d", "e"]
    assert [(fault.case_id, fault.code) for fault in work.faults[1:]] == [("deadly", Code.INTERNAL)]
    assert "may have run out of memory" in str(work.faults[1])
    assert work.n_listed == 7


LINGER = """
import time
from tests.client.test_worklist import Cases, worklist

class Slow(Cases):
    def get(self, case):
        if case.case_id == "slow":
            time.sleep(600)
        return super().get(case)

work = worklist("a", "b", "c", "slow", processes=2, cases=Slow())
print("ready", flush=True)
work.advance(float("inf"))
"""


def test_a_killed_site_leaves_no_process_behind():
    process = subprocess.Popen([sys.executable, "-c", LINGER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    parent = psutil.Process(process.pid)
    while len(workers := parent.children()) < 2:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
