"""The cache: a second run extracts nothing; a change or damage of any kind misses it; a kill leaves no half file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from client import case_cache
from client.case_cache import CaseCache
from client.ingest.manifest import CaseRow, ImagePaths, read_manifest
from client.preparation import PreparedCase, prepare_row
from client.worklist import Worklist
from common.config.study import StudyConfig
from common.errors import CaseError, Code, StateError
from common.files import ABANDONED_AFTER_S
from tests.client.cases import STUDY, nodule, row, study, write_case, write_manifest


class Counter:
    """Stands in for `prepare_row` and counts."""

    def __init__(self) -> None:
        self.cases: list[str] = []

    def __call__(self, case: CaseRow, of: StudyConfig, table: str) -> PreparedCase:
        self.cases.append(case.case_id)
        return prepare_row(case, of, table)


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    counter = Counter()
    monkeypatch.setattr(case_cache, "prepare_row", counter)
    return counter.cases


@pytest.fixture
def case(tmp_path: Path) -> CaseRow:
    folder = write_case(tmp_path / "images", "p1")
    return CaseRow("p1", "north", {"ct": ImagePaths(folder / "ct.nii.gz", folder / "roi.nii.gz")}, {}, (0.0,))


def cache(tmp_path: Path, of: StudyConfig | None = None) -> CaseCache:
    return CaseCache(tmp_path / "cache", of or study())


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def same(a: PreparedCase, b: PreparedCase) -> bool:
    assert a.patch is not None
    assert b.patch is not None
    equal = a.features.tobytes() == b.features.tobytes() and a.patch.tobytes() == b.patch.tobytes()
    return equal and (a.case_id, a.steps, a.patch.dtype, a.patch.shape) == (
        b.case_id,
        b.steps,
        b.patch.dtype,
        b.patch.shape,
    )


def test_the_second_time_nothing_is_extracted(tmp_path: Path, case: CaseRow, extractions: list[str]):
    first = cache(tmp_path).get(case)
    (file,) = files(tmp_path)
    written = file.stat().st_mtime_ns
    second = cache(tmp_path).get(case)
    assert extractions == ["p1"]
    assert same(first, second)
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_made_again(tmp_path: Path, case: CaseRow, extractions: list[str], share: float):
    first = cache(tmp_path).get(case)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert same(cache(tmp_path).get(case), first)
    assert extractions == ["p1", "p1"]
    assert file.read_bytes() == whole


def test_flipped_bits_are_noticed(tmp_path: Path, case: CaseRow, extractions: list[str]):
    first = cache(tmp_path).get(case)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for position in range(0, len(whole), 401):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert same(cache(tmp_path).get(case), first), position
    assert len(extractions) > 1


@pytest.mark.parametrize(
    "change",
    [('preset = "fast"', 'preset = "ct-lung"'), ("shape = [8, 8, 8]", "shape = [8, 8, 9]")],
)
def test_other_settings_miss(tmp_path: Path, case: CaseRow, extractions: list[str], change: tuple[str, str]):
    cache(tmp_path).get(case)
    cache(tmp_path, study(STUDY, change)).get(case)
    assert len(extractions) == len(files(tmp_path)) == 2
    cache(tmp_path).get(case)
    assert len(extractions) == 2


@pytest.mark.parametrize("part", ["image", "roi"])
def test_other_bytes_miss(tmp_path: Path, case: CaseRow, extractions: list[str], part: str):
    cache(tmp_path).get(case)
    image, roi = nodule("p1")
    if part == "image":
        write_case(tmp_path / "images", "p1", image.with_array(image.array + 1), roi)
    else:
        write_case(tmp_path / "images", "p1", image, roi.with_array(np.roll(roi.array, 1, axis=1)))
    cache(tmp_path).get(case)
    assert extractions == ["p1", "p1"]


def test_the_bytes_count_and_not_the_name_or_the_time(tmp_path: Path, case: CaseRow, extractions: list[str]):
    first = cache(tmp_path).get(case)
    (tmp_path / "images" / "p1").rename(tmp_path / "images" / "q1")
    moved = {n: ImagePaths(*(tmp_path / "images" / "q1" / f"{x}.nii.gz" for x in ("ct", "roi"))) for n in case.images}
    second = cache(tmp_path).get(CaseRow("q1", "north", moved, {}, (0.0,)))
    assert extractions == ["p1"]
    assert second.case_id == "q1"
    np.testing.assert_array_equal(second.features, first.features)


def test_a_fault_is_not_kept(tmp_path: Path, case: CaseRow):
    path = case.images["ct"].image
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(CaseError):
        cache(tmp_path).get(case)
    path.write_bytes(whole)
    assert cache(tmp_path).get(case).case_id == "p1"


def test_whatever_a_library_raises_is_a_fault_of_the_one_case(
    tmp_path: Path, case: CaseRow, monkeypatch: pytest.MonkeyPatch
):
    def broken(_case: CaseRow, _study: StudyConfig, _table: str) -> PreparedCase:
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr(case_cache, "prepare_row", broken)
    with pytest.raises(CaseError, match="case p1: ZeroDivisionError: deep inside") as caught:
        cache(tmp_path).get(case)
    assert caught.value.code == Code.INTERNAL


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_case(tmp_path: Path, case: CaseRow):
    store = cache(tmp_path)
    (tmp_path / "cache").rmdir()
    with pytest.raises(StateError, match="cannot write"):
        store.get(case)


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path):
    old, young = tmp_path / "cache" / ".partial-a", tmp_path / "cache" / ".partial-b"
    old.parent.mkdir()
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * ABANDONED_AFTER_S))
    cache(tmp_path)
    assert files(tmp_path) == [young]


PREPARE = """
import sys
from pathlib import Path
from client.case_cache import CaseCache
from client.ingest.manifest import read_manifest
from client.worklist import Worklist
from common.config.loading import parse
from common.config.study import StudyConfig
from tests.client.cases import study
folder = Path(sys.argv[1])
manifest = read_manifest(folder / "cases.csv", study(), data=folder / "images", site="north")
work = Worklist(manifest, CaseCache(folder / "cache", study()), processes=2, note=print)
while work.pending:
    work.advance(0)
    print(len(work.done), flush=True)
"""


def test_a_kill_in_the_middle_leaves_whole_files_and_the_next_run_goes_on(tmp_path: Path, extractions: list[str]):
    ids = [f"p{i:02d}" for i in range(24)]
    for case_id in ids:
        write_case(tmp_path / "images", case_id)
    write_manifest(tmp_path / "cases.csv", [row(case_id) for case_id in ids])
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 5:
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    finished = [path for path in files(tmp_path) if path.suffix == ".npz"]
    assert 5 <= len(finished) < len(ids)
    for path in finished:
        with np.load(path) as content:
            assert content["features"].size
    manifest = read_manifest(tmp_path / "cases.csv", study(), data=tmp_path / "images", site="north")
    work = Worklist(manifest, CaseCache(tmp_path / "cache", study()), processes=1, note=print)
    work.advance(float("inf"))
    assert sorted(work.done) == ids
    assert len(extractions) == len(ids) - len(finished)
