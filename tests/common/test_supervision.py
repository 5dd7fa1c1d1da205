"""Supervision with real processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from common.errors import StateError
from common.supervision import Ended, RestartPolicy, supervise
from tests.deployment import until

FAST = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.05, most_restarts=3)

COUNTED = """
import os, sys, time
with open(sys.argv[1], "a") as file: file.write(f"{os.getpid()}\\n")
lives = len(open(sys.argv[1]).readlines())
"""


def run(code: str, folder: Path, policy: RestartPolicy = FAST) -> tuple[Ended, list[str]]:
    """The end and the names of the events; ``code`` knows the number of its ``lives``."""
    events: list[str] = []
    ended = supervise(
        [sys.executable, "-S", "-c", COUNTED + code, str(folder / "lives")],
        policy,
        lambda event, _: events.append(event),
    )
    return ended, events


def lives(folder: Path) -> list[int]:
    path = folder / "lives"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@contextmanager
def supervisor(code: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fedrad supervise` as a process; its lines go to ``folder/log.jsonl``."""
    command = [sys.executable, "-m", "simulations", "supervise", "--log", str(folder / "log.jsonl"), *options, "--"]
    child = [sys.executable, "-S", "-c", COUNTED + code, str(folder / "lives")]
    process = subprocess.Popen([*command, *child])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_good_end_is_the_end(tmp_path: Path) -> None:
    ended, events = run("", tmp_path)
    assert ended == Ended(0, "done", 0)
    assert events == ["started", "supervision_ended"]


def test_a_failing_command_is_run_again_until_it_succeeds(tmp_path: Path) -> None:
    ended, _ = run("sys.exit(0 if lives == 3 else 7)", tmp_path)
    assert ended == Ended(0, "done", 2)
    assert len(lives(tmp_path)) == 3


def test_too_many_deaths_within_the_window_end_it(tmp_path: Path) -> None:
    ended, events = run("sys.exit(7)", tmp_path)
    assert ended == Ended(7, "gave_up", FAST.most_restarts)
    assert len(lives(tmp_path)) == FAST.most_restarts + 1
    assert events.count("restarting") == FAST.most_restarts


def test_deaths_outside_the_window_are_forgotten(tmp_path: Path) -> None:
    policy = RestartPolicy(first_delay_s=0.06, longest_delay_s=0.06, most_restarts=1, window_s=0.05)
    assert run("sys.exit(0 if lives == 5 else 7)", tmp_path, policy)[0] == Ended(0, "done", 4)


def test_a_code_that_no_restart_mends_is_final(tmp_path: Path) -> None:
    assert run("sys.exit(2)", tmp_path, RestartPolicy(final_codes=frozenset({2})))[0] == Ended(2, "final", 0)


def test_a_signal_of_its_own_is_a_death(tmp_path: Path) -> None:
    ended, _ = run("os.kill(os.getpid(), 9)", tmp_path, RestartPolicy(most_restarts=0))
    assert ended == Ended(128 + signal.SIGKILL, "gave_up", 0)


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(StateError, match="no-such-command"):
        supervise(["no-such-command"], FAST, lambda *_: None)


def test_the_pause_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(first_delay_s=1, longest_delay_s=5)
    assert [policy.delay_s(n) for n in (1, 2, 3, 4, 10_000)] == [1, 2, 4, 5, 5]


def test_killed_again_and_again_it_lives(tmp_path: Path) -> None:
    with supervisor("time.sleep(60)", tmp_path, "--longest-delay-s", "0.1") as process:
        for life in range(1, 5):
            until(lambda life=life: len(lives(tmp_path)) == life)  # type: ignore[misc]
            os.kill(lives(tmp_path)[-1], signal.SIGKILL)
        until(lambda: len(lives(tmp_path)) == 5)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
        assert not [pid for pid in lives(tmp_path) if psutil.pid_exists(pid)]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("started") == 5
    assert [line["deaths"] for line in lines if line["event"] == "restarting"] == [1, 2, 3, 4]
    assert lines[-1]["reason"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command_which_ends_as_it_likes(tmp_path: Path, number: signal.Signals) -> None:
    code = f"""
import signal
signal.signal({int(number)}, lambda *_: sys.exit(5))
open(sys.argv[1] + ".ready", "w").close()
time.sleep(60)
"""
    with supervisor(code, tmp_path) as process:
        until((tmp_path / "lives.ready").exists)
        process.send_signal(number)
        assert process.wait(10) == 5
    assert len(lives(tmp_path)) == 1
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["reason"], last["signal"]) == ("stopped", int(number))


def test_a_dead_command_leaves_nothing_behind_and_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    orphan = """
import subprocess
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
with open(sys.argv[1] + ".orphan", "a") as file: file.write(f"{child.pid}\\n")
time.sleep(60)
"""
    orphans = tmp_path / "lives.orphan"
    with supervisor(orphan, tmp_path) as process:
        until(lambda: orphans.exists() and len(orphans.read_text().split()) == 1)
        os.kill(lives(tmp_path)[0], signal.SIGKILL)
        until(lambda: len(orphans.read_text().split()) == 2)
        assert not _running(int(orphans.read_text().split()[0]))
        process.kill()
        until(lambda: not _running(lives(tmp_path)[1]))
    os.kill(int(orphans.read_text().split()[1]), signal.SIGKILL)  # only a supervisor that lives can end grandchildren


def _running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
