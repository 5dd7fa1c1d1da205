from __future__ import annotations

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import StateError
from common.journal import JsonLines


def test_lines_come_back_in_order_with_their_time(tmp_path: Path):
    journal = JsonLines(tmp_path / "deep" / "log.jsonl")
    journal.write("a", n=1, text="é\n", share=0.5, done=True)
    journal.write("b")
    first, second = journal.read()
    assert first == {"time": first["time"], "event": "a", "n": 1, "text": "é\n", "share": 0.5, "done": True}
    assert second["event"] == "b"
    assert first["time"].endswith("+00:00")


def test_nothing_written_is_nothing_read(tmp_path: Path):
    assert list(JsonLines(tmp_path / "log.jsonl").read()) == []


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_cut_last_line_loses_itself_alone(tmp_path: Path, cut: int):
    journal = JsonLines(tmp_path / "log.jsonl")
    journal.write("first")
    journal.write("second", n=2)
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[:-cut])
    kept = ["first"] if cut < len(content.splitlines(keepends=True)[1]) + 1 else []
    assert [line["event"] for line in journal.read()] == kept
    journal.write("third")
    after = [line["event"] for line in JsonLines(journal.path).read()]
    assert after[-1] == "third"
    # a line that lacks nothing but its end is whole once the next one gave it one
    assert after[:-1] == (["first", "second"] if cut == 1 else kept)


def test_the_listener_hears_what_was_written(tmp_path: Path):
    heard: list[dict[str, object]] = []
    journal = JsonLines(tmp_path / "log.jsonl", listener=heard.append)
    journal.write("a", n=1)
    assert heard == list(journal.read())


def test_lines_of_many_threads_do_not_mix(tmp_path: Path):
    journal = JsonLines(tmp_path / "log.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.write("x", n=n, filler="y" * 3000), range(200)))
    assert sorted(line["n"] for line in journal.read()) == list(range(200))


def test_only_the_owner_may_read_it(tmp_path: Path):
    journal = JsonLines(tmp_path / "log.jsonl")
    journal.write("a")
    assert journal.path.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_said(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    code = (
        "import resource, signal, sys; from pathlib import Path; from common.journal import JsonLines;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY));"
        "journal = JsonLines(Path(sys.argv[1]));"
        "[journal.write('line', n=n) for n in range(9)]"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"StateError: cannot write {path}" in ended.stderr
    journal = JsonLines(path)
    journal.write("after")
    assert [line["event"] for line in journal.read()] == ["line", "line", "after"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_is_no_file_is_refused(tmp_path: Path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(StateError, match="cannot write"):
        JsonLines(tmp_path / "log.jsonl").write("a")


def test_a_line_is_one_json_object(tmp_path: Path):
    journal = JsonLines(tmp_path / "log.jsonl")
    journal.write("a", text="two\nlines")
    (line,) = journal.path.read_text().splitlines()
    assert json.loads(line)["text"] == "two\nlines"
