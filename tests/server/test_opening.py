"""A run's folder: new, resumed, or refused by study and by version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import StateError
from common.version import versions
from server.opening import VERSIONS_FILE, alone_in, open_run
from tests.small_study import STUDY, write_study


def test_a_run_is_resumed_only_by_the_same_study_and_versions(tmp_path: Path) -> None:
    study_file, _ = write_study(tmp_path)
    run = tmp_path / "run"
    open_run(study_file, run, resume=False)
    open_run(study_file, run, resume=True)
    with pytest.raises(StateError, match="--resume"):
        open_run(study_file, run, resume=False)
    (tmp_path / "other").mkdir()
    other, _ = write_study(tmp_path / "other", STUDY.replace("seed = 5", "seed = 6"))
    with pytest.raises(StateError, match="not the same"):
        open_run(other, run, resume=True)
    (run / VERSIONS_FILE).write_text(json.dumps(versions() | {"torch": "0.9"}))
    with pytest.raises(StateError, match=r"torch \S+ here, 0\.9 when it began"):
        open_run(study_file, run, resume=True)
    (run / VERSIONS_FILE).write_text("{")
    with pytest.raises(StateError, match="cannot be read"):
        open_run(study_file, run, resume=True)


def test_a_folder_is_held_by_one_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(StateError, match="another process runs"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass
