from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.privacy_budget import FILE, HEAD_FILE, PrivacyBudget
from common.errors import Code, GateError, PrivacyError, StateError
from common.messages import PrivacyEvent
from common.privacy.ledger import epsilon, event_to_json, gaussian, sampled_gaussian, solve_noise_multiplier

DELTA = 1e-4
ROUND = (sampled_gaussian(2.5, sampling_rate=0.2, steps=10),)
STUDY = "a" * 64


def budget(folder: Path, limit: float = 4.0) -> PrivacyBudget:
    return PrivacyBudget(folder, limit, DELTA)


def test_costs_add_up_over_studies_and_restarts(tmp_path: Path):
    budget(tmp_path).reserve(STUDY, ROUND)
    budget(tmp_path).reserve("b" * 64, ROUND)
    again = budget(tmp_path)
    assert [event_to_json(event) for event in again.spent()] == [["sampled_gaussian", 2.5, 0.2, 20]]
    assert again.epsilon() == epsilon([*ROUND, *ROUND], DELTA)
    assert again.epsilon("pld") < again.epsilon()
    assert [line.study_digest[0] for line in again.reservations()] == ["a", "b"]


def test_a_new_budget_is_unspent(tmp_path: Path):
    assert budget(tmp_path / "new").spent() == ()
    assert budget(tmp_path / "new").epsilon() == 0


def test_what_would_exceed_the_budget_is_refused_and_not_written(tmp_path: Path):
    steps = 50
    noise = solve_noise_multiplier(target_epsilon=4.0, delta=DELTA, sampling_rate=0.2, steps=steps)
    own = budget(tmp_path)
    for _ in range(5):
        own.reserve(STUDY, (sampled_gaussian(noise, sampling_rate=0.2, steps=10),))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(GateError, match=r"would bring epsilon from 4 to .*budget is 4") as caught:
        own.reserve(STUDY, (sampled_gaussian(noise, sampling_rate=0.2, steps=1),))
    assert caught.value.code == Code.BUDGET_EXCEEDED
    assert (tmp_path / FILE).read_bytes() == before
    PrivacyBudget(tmp_path, 8.0, DELTA).reserve(STUDY, ROUND)  # the hospital gives more


def test_training_without_noise_never_fits(tmp_path: Path):
    with pytest.raises(GateError, match="epsilon from 0 to inf"):
        budget(tmp_path, 1e9).reserve(STUDY, [gaussian(0.0)])


def test_a_cost_that_cannot_be_counted_is_no_cost_of_zero(tmp_path: Path):
    with pytest.raises(ValueError, match="noise multiplier nan"):
        PrivacyEvent("gaussian", math.nan, 1.0, 1)
    with pytest.raises(PrivacyError, match="unheard of"):
        budget(tmp_path).reserve(STUDY, [PrivacyEvent("unheard of", 1.0, 1.0, 1)])
    assert budget(tmp_path).spent() == ()


KILLED = """
import os, sys
from pathlib import Path
from client.privacy_budget import PrivacyBudget
from common.privacy.ledger import sampled_gaussian
PrivacyBudget(Path(sys.argv[1]), 4.0, 1e-4).reserve("c" * 64, [sampled_gaussian(2.5, sampling_rate=0.2, steps=10)])
os.kill(os.getpid(), 9)  # in the middle of the training that was paid for
"""


def test_a_process_killed_while_training_has_paid(tmp_path: Path):
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        assert ended.returncode == -9
    assert budget(tmp_path).epsilon() == epsilon([*ROUND, *ROUND], DELTA)


def test_a_line_that_a_crash_cut_short_paid_for_nothing(tmp_path: Path):
    budget(tmp_path).reserve(STUDY, ROUND)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"time": "2026')
    budget(tmp_path).reserve(STUDY, ROUND)
    assert len(budget(tmp_path).reservations()) == 2


def test_a_crash_between_the_two_files_loses_no_cost(tmp_path: Path):
    budget(tmp_path).reserve(STUDY, ROUND)
    head = (tmp_path / HEAD_FILE).read_bytes()
    budget(tmp_path).reserve(STUDY, ROUND)
    (tmp_path / HEAD_FILE).write_bytes(head)
    assert len(budget(tmp_path).reservations()) == 2
    budget(tmp_path).reserve(STUDY, ROUND)
    assert len(budget(tmp_path).reservations()) == 3


def spend(folder: Path, n: int) -> list[bytes]:
    for _ in range(n):
        budget(folder).reserve(STUDY, ROUND)
    return (folder / FILE).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [lines[0].replace(b"2.5", b"9.5"), *lines[1:]], "line 2 does not follow"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"2.5", b"9.5")], "was put back"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: lines[:1], "was put back"),
        (lambda lines: [], "was put back"),
        (lambda lines: [*lines[:-1], b"not json\n"], "line 3 does not follow"),
    ],
    ids=["edited", "last edited", "line removed", "rolled back", "emptied", "garbage"],
)
def test_a_changed_file_is_found_before_anything_is_trained(tmp_path: Path, change, fault: str):
    lines = spend(tmp_path, 3)
    (tmp_path / FILE).write_bytes(b"".join(change(lines)))
    with pytest.raises(StateError, match=fault):
        budget(tmp_path).reserve(STUDY, ROUND)
    with pytest.raises(StateError, match=fault):
        budget(tmp_path).epsilon()


def test_a_head_that_was_put_back_or_removed_is_found(tmp_path: Path):
    spend(tmp_path, 1)
    old = (tmp_path / HEAD_FILE).read_bytes()
    spend(tmp_path, 3)
    (tmp_path / HEAD_FILE).write_bytes(old)
    with pytest.raises(StateError, match="was put back"):
        budget(tmp_path).spent()
    (tmp_path / HEAD_FILE).unlink()
    with pytest.raises(StateError, match="missing beside 4"):
        budget(tmp_path).spent()


def test_both_files_put_back_differ_from_the_head_that_a_log_holds(tmp_path: Path):
    spend(tmp_path, 1)
    older = {name: (tmp_path / name).read_bytes() for name in (FILE, HEAD_FILE)}
    spend(tmp_path, 1)
    logged = budget(tmp_path).head()
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)
    assert budget(tmp_path).head() != logged


def test_two_processes_at_once_lose_no_cost(tmp_path: Path):
    code = KILLED.replace("os.kill(os.getpid(), 9)", "")
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(budget(tmp_path).reservations()) == 3


def test_nobody_else_can_read_it(tmp_path: Path):
    spend(tmp_path, 1)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_a_full_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "write", lambda handle, content: 3)
    with pytest.raises(StateError, match="cut short"):
        budget(tmp_path).reserve(STUDY, ROUND)
