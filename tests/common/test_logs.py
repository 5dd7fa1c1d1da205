"""Logs: every line is JSON with level, time, event, study and round, and no text of a library or an exception."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from common.journal import JsonLines
from common.logs import JsonLog

SECRET = "/data/patients/P-0042.nii.gz"


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_journal_lines_carry_study_round_and_level(tmp_path: Path) -> None:
    stream = io.StringIO()
    log = JsonLog("coordinator", stream)
    journal = JsonLines(tmp_path / "events.jsonl", listener=log.journal)
    journal.write("study", name="lung", digest="0" * 64, sites=3)
    journal.write("round", model="cnn", course="federated", fold=0, round_number=4, rounds=9, train_loss=0.5, sites=3)
    journal.write("answer", site="north", phase="train cnn", request="Train", code="small_cell")
    journal.write("failed", code="federation", text="train cnn: site north refused Train: small_cell")
    found = lines(stream.getvalue())
    assert [(line["level"], line["event"], line["study"], line["round"]) for line in found] == [
        ("info", "study", "lung", 0),
        ("info", "round", "lung", 4),
        ("warning", "answer", "lung", 0),
        ("error", "failed", "lung", 0),
    ]
    assert all(datetime.fromisoformat(str(line["time"])).utcoffset() is not None for line in found)
    assert [line["time"] for line in found] == [line["time"] for line in journal.read()]


PROGRAM = f"""
import logging, threading, warnings
from common.logs import JsonLog
logging.getLogger("flwr").addHandler(logging.StreamHandler())
log = JsonLog("site")
log.take_over()
log.say("connected to coordinator:443")
logging.getLogger("flwr").warning("file %s", "{SECRET}")
logging.getLogger("uvicorn.error").error("{SECRET}")
warnings.warn("{SECRET}")
try:
    open("{SECRET}")
except OSError:
    logging.getLogger("httpx").exception("could not read {SECRET}")
def fail():
    raise ValueError("{SECRET}")
thread = threading.Thread(target=fail)
thread.start(); thread.join()
fail()
"""


def test_nothing_that_a_library_or_an_exception_says_is_in_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    found = lines(done.stderr)
    assert "P-0042" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert [(line["event"], line.get("exception", "")) for line in found] == [
        ("told", ""),
        ("library", ""),
        ("library", ""),
        ("library", ""),
        ("library", "FileNotFoundError"),
        ("uncaught", "ValueError"),
        ("uncaught", "ValueError"),
    ]
    assert {line["process"] for line in found} == {"site"}
    assert all({"time", "level", "event", "study", "round"} <= set(line) for line in found)
