"""Features of many cases: in processes, with a cache on disk that a killed run goes on from.

The rows of a case are kept in one file, named by the SHA-256 of everything they follow from: the bytes of image and
ROI, the label, the preset and the version of the numbers. A file is written whole or not at all. The cache holds
feature rows of patients: it stays at the site, beside the data.

Nothing heavy is imported here: a run that finds all its rows reads text and nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.radiomics.settings import RadiomicsSettings
from common.errors import CaseError, Code, ConfigError

NUMBERS_VERSION = 1
"""Raised whenever any feature value changes; rows of another version are not read."""

HEADER = ("feature", "ibsi_tag", "aggregation", "value", "unit")

IMAGE_ENDINGS = ("image.nii.gz", "image.nii", "image.nrrd", "image.mha")
ROI_WORDS = ("mask", "roi", "seg")
"""In a folder, ``CT_image.nii.gz`` is paired with ``CT_mask.nii.gz``, ``CT_roi.nii.gz`` or ``CT_seg.nii.gz``."""

RACY_SECONDS = 2.0
"""A file changed this shortly before it was digested is digested again: its time stamp may not show a later change."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class CohortCase:
    """Where the image and the ROI of a case are."""

    case_id: str
    image: Path
    roi: Path
    label: int = 1


@dataclass(frozen=True)
class CaseRows:
    """What became of a case: ``rows`` are CSV lines under ``HEADER``, empty where ``error`` says why there are none."""

    case_id: str
    rows: str
    error: CaseError | None
    from_cache: bool


def read_cases(path: Path, *, label: int = 1) -> tuple[CohortCase, ...]:
    """Cases of a manifest (CSV with ``case_id,image,roi`` and perhaps ``label``; paths from its folder) or of a folder.

    Raises
    ------
    ConfigError
        All faults of the manifest at once, or a folder without any pair.
    """
    if not path.exists():
        raise ConfigError(str(path), ["no such file or folder"])
    cases = _manifest_cases(path, label) if path.is_file() else _folder_cases(path, label)
    twice = sorted({case.case_id for case in cases if sum(case.case_id == other.case_id for other in cases) > 1})
    if twice:
        raise ConfigError(str(path), [f"case id given twice: {case_id}" for case_id in twice])
    return cases


def extract_cohort(
    cases: Sequence[CohortCase], settings: RadiomicsSettings, *, cache: Path, n_processes: int
) -> Iterator[CaseRows]:
    """Rows of each case as they come: first what the cache holds, then the rest from ``n_processes`` processes.

    A case that cannot be used is given with its error; the others go on.
    """
    cache.mkdir(parents=True, exist_ok=True)
    digests = _Digests(cache / "digests.json")
    missing: list[tuple[CohortCase, Path]] = []
    for case in cases:
        try:
            place = _place(case, settings, cache, digests)
        except OSError:
            reason = f"cannot read {case.image if not case.image.is_file() else case.roi}"
            yield CaseRows(case.case_id, "", CaseError(case.case_id, reason, code=Code.FILE_MISSING), from_cache=False)
            continue
        rows = _read_rows(place)
        if rows is None:
            missing.append((case, place))
        else:
            yield CaseRows(case.case_id, rows, None, from_cache=True)
    digests.save()
    if missing and n_processes == 1:
        for case, place in missing:
            yield _finish(case, _extract_case(case, settings, place))
    elif missing:
        yield from _in_processes(missing, settings, n_processes)


def case_lines(result: CaseRows) -> str:
    """The rows of a case with its id in front of each line."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([result.case_id])
    prefix = buffer.getvalue() + ","
    return "".join(prefix + line for line in result.rows.splitlines(keepends=True))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and surely on disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _manifest_cases(path: Path, label: int) -> tuple[CohortCase, ...]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"case_id", "image", "roi"} - set(reader.fieldnames or ())
        if missing:
            raise ConfigError(str(path), [f"column {name} is missing" for name in sorted(missing)])
        lines = list(reader)
    faults, cases = [], []
    for number, line in enumerate(lines, start=2):
        text = (line.get("label") or str(label)).strip()
        if not (line["case_id"] and line["image"] and line["roi"]):
            faults.append(f"line {number}: case_id, image and roi must not be empty")
        elif not text.isdigit() or int(text) < 1:
            faults.append(f"line {number}: label is {text!r}, expected a positive integer")
        else:
            image, roi = path.parent / line["image"], path.parent / line["roi"]
            cases.append(CohortCase(line["case_id"], image, roi, int(text)))
    if faults or not cases:
        raise ConfigError(str(path), faults or ["no case"])
    return tuple(cases)


def _folder_cases(path: Path, label: int) -> tuple[CohortCase, ...]:
    cases = []
    for image in sorted(path.rglob("*")):
        ending = next((end for end in IMAGE_ENDINGS if image.name.lower().endswith(end)), None)
        if ending is None or not image.is_file():
            continue
        stem = image.name[: -len(ending)]
        suffix = image.name[len(stem) + len("image") :]
        roi = next((found for word in ROI_WORDS if (found := image.with_name(f"{stem}{word}{suffix}")).is_file()), None)
        if roi is not None:
            name = "_".join([*image.relative_to(path).parent.parts, stem.rstrip("_-.")]).strip("_") or path.name
            cases.append(CohortCase(name, image, roi, label))
    if not cases:
        expected = "pairs such as CT_image.nii.gz and CT_mask.nii.gz"
        raise ConfigError(str(path), [f"no case found; expected {expected}"])
    return tuple(cases)


class _Digests:
    """SHA-256 of files, remembered by path, size and time of change: unchanged files are not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[int | str]] = {}
        self._changed = False
        if path.is_file():
            try:
                self._known = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # a damaged memory costs time, not numbers: everything is digested again
                self._known = {}

    def of(self, path: Path) -> str:
        status = path.stat()
        name = str(path.resolve())
        entry = self._known.get(name)
        if entry is not None and entry[:2] == [status.st_size, status.st_mtime_ns]:
            return str(entry[2])
        started = time.time()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if status.st_mtime < started - RACY_SECONDS:
            self._known[name] = [status.st_size, status.st_mtime_ns, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        if self._changed:
            write_text(self._path, json.dumps(self._known))


def _place(case: CohortCase, settings: RadiomicsSettings, cache: Path, digests: _Digests) -> Path:
    parts = [digests.of(case.image), digests.of(case.roi), str(case.label), settings.digest, str(NUMBERS_VERSION)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return cache / key[:2] / f"{key}.csv"


def _read_rows(place: Path) -> str | None:
    """The rows of a cache file; None where there is none or its digest does not fit."""
    try:
        digest, _, rows = place.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return None
    return rows if digest == hashlib.sha256(rows.encode()).hexdigest() else None


def _extract_case(case: CohortCase, settings: RadiomicsSettings, place: Path) -> str | tuple[Code, str]:
    """Extract one case and keep its rows. An error comes back as code and reason: exceptions do not cross processes."""
    from client.radiomics.loading import extract_files  # heavy; not needed where the cache holds all rows

    try:
        values = extract_files(case.image, case.roi, settings, label=case.label, case_id=case.case_id)
    except CaseError as error:
        return error.code, error.reason
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows((v.feature, v.ibsi_tag, v.aggregation, repr(v.value), v.unit) for v in values)
    rows = buffer.getvalue()
    place.parent.mkdir(exist_ok=True)
    write_text(place, f"{hashlib.sha256(rows.encode()).hexdigest()}\n{rows}")
    return rows


def _finish(case: CohortCase, outcome: str | tuple[Code, str]) -> CaseRows:
    if isinstance(outcome, str):
        return CaseRows(case.case_id, outcome, None, from_cache=False)
    code, reason = outcome
    return CaseRows(case.case_id, "", CaseError(case.case_id, reason, code=code), from_cache=False)


def _in_processes(
    missing: Sequence[tuple[CohortCase, Path]], settings: RadiomicsSettings, n_processes: int
) -> Iterator[CaseRows]:
    """Large files first, so that no process is left with a long case at the end; few cases wait in the queue."""
    queue = sorted(missing, key=lambda entry: entry[0].image.stat().st_size)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["client.radiomics.loading"])
    with _one_thread_each(), ProcessPoolExecutor(min(n_processes, len(queue)), mp_context=context) as pool:
        running: dict[Future[str | tuple[Code, str]], CohortCase] = {}
        while queue or running:
            while queue and len(running) < 2 * n_processes:
                case, place = queue.pop()
                running[pool.submit(_extract_case, case, settings, place)] = case
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield _finish(running.pop(future), future.result())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start now use one thread each in BLAS, OpenMP and ITK."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
