"""What the benchmark of whole rounds makes of a journal and of the CPU that it read beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulations.benchmarks.one_process import model_bytes
from simulations.benchmarks.rounds import STAGES, Moment, Run, _new_lines
from simulations.benchmarks.rounds_cohort import SITES


def asked(phase: str) -> dict[str, Any]:
    return {"event": "asked", "phase": phase}


def answers() -> list[dict[str, Any]]:
    half = model_bytes()
    return [{"event": "answer", "phase": "train cnn", "bytes_down": half, "bytes_up": half} for _ in SITES]


LINES = [
    ({"event": "note"}, 1.0, 0.5, 2.0),
    (asked("hello"), 2.0, 1.0, 4.0),
    (asked("train cnn"), 5.0, 1.5, 7.0),
    *((line, 8.0, 1.5, 11.0) for line in answers()),
    ({"event": "round"}, 9.0, 2.0, 12.0),
    *((line, 10.0, 2.0, 14.0) for line in answers()),
    ({"event": "round"}, 11.0, 2.5, 15.0),
    ({"event": "round"}, 12.0, 3.0, 17.5),
    ({"event": "finished"}, 13.0, 3.5, 18.0),
]
RUN = Run(23.0, tuple(Moment(line, *numbers) for line, *numbers in LINES))


def test_stages_add_up_to_the_whole() -> None:
    assert len(RUN.stages) == len(STAGES)
    assert RUN.stages == ((1.0, 4.0), (0.5, 3.0), (0.5, 5.0), (1.0, 5.5), (2.5, 0.0))
    assert sum(map(sum, RUN.stages)) == RUN.cpu_s


def test_a_warm_round_is_one_after_the_first() -> None:
    assert RUN.warm_round_s == (1.5, 3.25)
    assert RUN.cold_start_s == 7.5
    assert RUN.bytes_per_model == pytest.approx(2.0)


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    journal = tmp_path / "events.jsonl"
    assert _new_lines(journal, 0) == ([], 0)
    first, second = (json.dumps({"event": name}) + "\n" for name in ("a", "b"))
    journal.write_text(first + second[:-4])
    lines, position = _new_lines(journal, 0)
    assert (lines, position) == ([{"event": "a"}], len(first))
    assert _new_lines(journal, position) == ([], position)
    journal.write_text(first + second)
    assert _new_lines(journal, position) == ([{"event": "b"}], len(first + second))
