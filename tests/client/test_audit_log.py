"""The audit log: what a forger changes shows, what a crash cuts off is told from it, and a wrong clock is noted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.audit_chain import Entry, Head
from client.audit_log import AuditFiles, AuditLog
from client.site_key import SiteKey
from common.config.site import SiteConfig
from common.errors import StateError


def site_key(state: Path) -> SiteKey:
    here = Path()
    return SiteKey.of(SiteConfig(site="north", manifest=here, data=here / "data", state=state, studies=(here,)))


def opened(state: Path, **settings: object) -> AuditLog:
    return AuditLog(AuditFiles.of(state), site_key(state), **settings)  # type: ignore[arg-type]  # as each test says


def lines(state: Path) -> list[bytes]:
    return (state / "audit.jsonl").read_bytes().splitlines(keepends=True)


def put(state: Path, content: list[bytes]) -> None:
    (state / "audit.jsonl").write_bytes(b"".join(content))


def events(state: Path) -> list[str]:
    return [json.loads(line)["event"] for line in lines(state)]


def written(state: Path, n: int = 6, *, durable: bool = True) -> AuditLog:
    log = opened(state)
    for number in range(n):
        log.append("left", durable=durable, number=number)
    return log


def test_entries_come_back_in_order_with_rising_counters(tmp_path: Path):
    log = written(tmp_path)
    seen: list[Entry] = []
    again = opened(tmp_path, on_entry=seen.append)
    assert [entry["counter"] for entry in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert [entry["number"] for entry in seen[1:]] == [0, 1, 2, 3, 4, 5]
    assert again.head == log.head
    assert seen[0]["event"] == "vouched"


def test_key_and_log_are_for_this_user_alone(tmp_path: Path):
    written(tmp_path)
    for name in ("audit.jsonl", "audit.key", "site.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_two_writers_continue_one_chain(tmp_path: Path):
    seen: list[Entry] = []
    first, second = opened(tmp_path, on_entry=seen.append), opened(tmp_path)
    for number in range(4):
        (first, second)[number % 2].append("left", durable=True, number=number)
    first.catch_up()
    assert [entry.get("number") for entry in seen] == [None, 0, 1, 2, 3]
    assert opened(tmp_path).head == first.head == second.head


def changed(content: list[bytes]) -> list[bytes]:
    return [*content[:2], content[2].replace(b'"number":1', b'"number":9'), *content[3:]]


FORGERIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a value changed": (changed, "line 4: the line before is not the one"),
    "a line taken out": (lambda c: [*c[:2], *c[3:]], "line 3: counter 4 follows 2"),
    "a line twice": (lambda c: [*c[:3], *c[2:]], "line 4: counter 3 follows 3"),
    "lines exchanged": (lambda c: [*c[:2], c[3], c[2], *c[4:]], "line 3: counter 4 follows 2"),
    "first line gone": (lambda c: c[1:], "line 1: counter 2 follows 0"),
    "garbage in between": (lambda c: [*c[:2], b"garbage\n", *c[2:]], "line 3: is no line of this log, and no crash"),
    "half a line in between": (lambda c: [*c[:2], c[2][:40] + b"\n", *c[3:]], "line 3: is no line of this log"),
    "rolled back by a line": (lambda c: c[:-1], "rolled back: line 7 was written and is gone"),
    "rolled back by half": (lambda c: c[:3], "rolled back: line 7 was written and is gone"),
    "emptied": (lambda c: [], "rolled back: line 7 was written and is gone"),
    "last line cut": (lambda c: [*c[:-1], c[-1][:60]], "rolled back: line 7 was written and is gone"),
    "last line changed": (lambda c: [*c[:-1], c[-1].replace(b'"number":5', b'"number":4')], "line 7 was written and"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_a_forger_changes_shows_and_the_log_is_not_continued(tmp_path: Path, forgery: str):
    written(tmp_path)
    change, named = FORGERIES[forgery]
    before = lines(tmp_path)
    put(tmp_path, change(before))
    forged = (tmp_path / "audit.jsonl").read_bytes()
    with pytest.raises(StateError) as caught:
        opened(tmp_path)
    assert named in str(caught.value)
    assert (tmp_path / "audit.jsonl").read_bytes() == forged


def test_a_line_without_the_key_cannot_be_added(tmp_path: Path):
    """Whoever knows the rules of the chain, but not the key, cannot write what follows."""
    written(tmp_path)
    other = tmp_path / "other"
    forger = opened(other)
    forger.append("left", number=9)
    forged = json.loads(lines(other)[-1]) | {"counter": 8}
    forged["previous"] = opened(tmp_path).head.sha256
    put(tmp_path, [*lines(tmp_path), json.dumps(forged, separators=(",", ":")).encode() + b"\n"])
    with pytest.raises(StateError, match="line 8: the signature is not that of the log's key"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["audit.head", "audit.key"])
def test_a_missing_or_damaged_head_or_key_is_named(tmp_path: Path, name: str):
    written(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"\0" * len(content))
    with pytest.raises(StateError, match=name):
        opened(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StateError, match=name):
        opened(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert opened(tmp_path).head.counter == 7


def test_one_torn_place_of_the_head_leaves_the_other(tmp_path: Path):
    """The power fails while the head is written: the place before it still holds an earlier line, which is enough."""
    written(tmp_path)
    content = (tmp_path / "audit.head").read_bytes()
    for torn in (b"\0" * 512 + content[512:], content[:512] + b"\0" * 512):
        (tmp_path / "audit.head").write_bytes(torn)
        assert opened(tmp_path).head.counter == 7


def test_a_log_that_lacks_lines_nothing_left_under_is_a_crash(tmp_path: Path):
    """Lines that had not reached the disk when the power failed: nothing had left under them."""
    written(tmp_path, 3)
    log = opened(tmp_path)
    log.append("asked", number=3)
    put(tmp_path, lines(tmp_path)[:-1])
    assert opened(tmp_path).head.counter == 4


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_line_that_a_crash_cut_is_noted_and_the_log_goes_on(tmp_path: Path, kept: int):
    written(tmp_path, 3)
    opened(tmp_path).append("asked", number=3)
    put(tmp_path, [*lines(tmp_path)[:-1], lines(tmp_path)[-1][:kept]])
    log = opened(tmp_path)
    log.append("left", durable=True, number=4)
    seen: list[Entry] = []
    assert opened(tmp_path, on_entry=seen.append).head == log.head
    assert [entry["event"] for entry in seen] == ["vouched", "left", "left", "left", "recovered", "left"]


def test_a_crash_while_the_crash_was_noted(tmp_path: Path):
    written(tmp_path, 2)
    opened(tmp_path).append("asked", number=3)
    put(tmp_path, [*lines(tmp_path)[:-1], lines(tmp_path)[-1][:20], b'\n{"counter":4,'])
    opened(tmp_path).append("left", durable=True, number=4)
    assert opened(tmp_path).head.counter == 5


def test_a_crash_cannot_be_feigned_in_the_middle(tmp_path: Path):
    """A "recovered" line accounts for the bytes before it and for nothing else."""
    written(tmp_path, 2)
    opened(tmp_path).append("asked", number=3)
    put(tmp_path, [*lines(tmp_path)[:-1], lines(tmp_path)[-1][:20]])
    opened(tmp_path).append("left", durable=True, number=4)
    content = lines(tmp_path)
    put(tmp_path, [*content[:3], b'{"counter":4,"event":"x\n', *content[4:]])
    with pytest.raises(StateError, match="no crash was noted after it"):
        opened(tmp_path)
    put(tmp_path, [*content[:3], *content[4:]])
    with pytest.raises(StateError, match="notes a line that a crash cut short, and there is none"):
        opened(tmp_path)


def test_a_log_changed_under_a_running_process_is_not_continued(tmp_path: Path):
    log = written(tmp_path)
    whole = lines(tmp_path)
    for content in (whole[:-1], [*whole[:-1], whole[-1].replace(b'"number":5', b'"number":4')], []):
        put(tmp_path, content)
        with pytest.raises(StateError, match="was changed or rolled back while fedrad ran"):
            log.append("left", durable=True, number=6)
    put(tmp_path, whole)
    assert log.append("left", durable=True, number=6) == opened(tmp_path).head


def clock(*minutes: float) -> Callable[[], datetime]:
    ticking: Iterator[float] = iter(minutes)
    start = datetime(2026, 11, 23, tzinfo=UTC)
    return lambda: start + timedelta(minutes=next(ticking))


def test_a_clock_that_went_back_is_noted_and_the_counter_still_rises(tmp_path: Path):
    log = opened(tmp_path, clock=clock(0, 10, 3, 4, 3.99))
    for number in range(4):
        log.append("left", durable=True, number=number)
    read = [json.loads(line) for line in lines(tmp_path)]
    assert [entry["counter"] for entry in read] == [1, 2, 3, 4, 5]
    assert [entry.get("clock_back_s") for entry in read] == [None, None, 420.0, None, None]  # 0.6 s is no note
    assert opened(tmp_path).head.counter == 5


def test_a_clock_that_went_back_between_two_processes_is_noted(tmp_path: Path):
    opened(tmp_path, clock=clock(0, 60)).append("left", durable=True)
    opened(tmp_path, clock=clock(30)).append("left", durable=True)
    assert json.loads(lines(tmp_path)[-1])["clock_back_s"] == 1800


def test_another_site_key_vouches_anew(tmp_path: Path):
    """A rotated node key: the log goes on, and says so."""
    written(tmp_path, 1)
    (tmp_path / "site.key").rename(tmp_path / "old.key")
    opened(tmp_path)
    opened(tmp_path)
    assert events(tmp_path) == ["vouched", "left", "vouched"]


def test_the_head_may_live_elsewhere(tmp_path: Path):
    """Both files of the state folder put back from a backup: the head on another disk knows better."""
    state, head = tmp_path / "state", tmp_path / "elsewhere" / "audit.head"
    files = AuditFiles.of(state, head)
    log = AuditLog(files, site_key(state))
    log.append("left", durable=True)
    backup = {path: path.read_bytes() for path in state.iterdir()}
    log.append("left", durable=True)
    for path, content in backup.items():
        path.write_bytes(content)
    with pytest.raises(StateError, match="rolled back: line 3"):
        AuditLog(files, site_key(state))


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.client.test_audit_log import opened
log = opened(Path(sys.argv[1]))
for number in range(10**9):
    log.append("asked", number=number)
    log.append("left", durable=True, number=number)
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_left(tmp_path: Path):
    """Killed at any moment, a process leaves a log that holds every line it had finished, and that goes on."""
    told = -1
    for _ in range(3):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
        ) as process:
            assert process.stdout is not None
            for _ in range(40):
                told = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in process.stdout.read().split())])
        seen: list[Entry] = []
        opened(tmp_path, on_entry=seen.append)
        numbers = [entry["number"] for entry in seen if entry["event"] == "left"]
        assert told in numbers[-2:]


def test_a_head_reads_as_it_is_written_down():
    assert str(Head(7, "ab" * 32)) == "7:" + "ab" * 32
