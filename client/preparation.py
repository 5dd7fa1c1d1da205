"""From a row of the manifest to a prepared case: read, check, harmonise, extract, cut the patch; and its cache.

A finished case is one file, written atomically under a key of everything that shaped it: the bytes of its files, the
study's image, feature and patch settings, and fedrad's version. So a killed site goes on where it was, and a second
run reads the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import numpy.typing as npt

from client.imaging import Case, apply
from client.imaging.patch import patch_pair
from client.ingest.manifest import CaseRow, ImagePaths, Manifest
from client.ingest.nifti import read_roi, read_volume
from client.radiomics.extractor import extract, feature_names
from client.radiomics.settings import preset
from common.config.study import ImageConfig, PatchConfig, RadiomicsConfig, StudyConfig
from common.errors import CaseError, Code
from common.version import VERSION
from common.volume import grid_difference

CACHE_FORMAT = 1
"""Raised when what is cached, or its meaning, changes."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """What the study needs of one case.

    Parameters
    ----------
    features : ndarray of float64, shape (n_features,)
        In the order of `study_feature_names`.
    patch : ndarray of float32, shape (C, D, H, W), or None
    steps : tuple of str
        What was applied to each image, as JSON, for the site's quality report.
    """

    case_id: str
    features: npt.NDArray[np.float64]
    patch: npt.NDArray[np.float32] | None
    steps: tuple[str, ...]


def study_feature_names(study: StudyConfig) -> tuple[str, ...]:
    """Names of the radiomics columns, the same at every site: ``image_feature``."""
    return tuple(
        f"{entry.image}_{name}" for entry in study.radiomics for name in feature_names(preset(entry.preset))
    )


def prepare_case(row: CaseRow, study: StudyConfig) -> PreparedCase:
    """Read, check, harmonise and measure one case.

    Raises
    ------
    CaseError
        If anything about the case is not as it should be.
    """
    cases = {image.name: _harmonised(row.case_id, row.images[image.name], image) for image in study.images}
    return PreparedCase(
        case_id=row.case_id,
        features=_features(row.case_id, cases, study.radiomics),
        patch=_patch(cases, study.patch) if study.patch else None,
        steps=tuple(step.to_json() for case in cases.values() for step in case.steps),
    )


def _harmonised(case_id: str, paths: ImagePaths, image: ImageConfig) -> Case:
    volume = read_volume(paths.image, case_id=case_id)
    roi = read_roi(paths.roi, label=image.roi_label, case_id=case_id)
    difference = grid_difference(volume, roi)
    if difference:
        raise CaseError(case_id, f"{image.name}: the ROI's grid has {difference}", code=Code.GRID_MISMATCH)
    case = Case(case_id=case_id, images={image.name: volume}, roi=roi)
    for step in image.steps:
        case = apply(step, case)
    return case


def _features(case_id: str, cases: dict[str, Case], entries: Sequence[RadiomicsConfig]) -> npt.NDArray[np.float64]:
    values = [
        feature.value
        for entry in entries
        for feature in extract(
            cases[entry.image].images[entry.image],
            cases[entry.image].roi,
            preset(entry.preset),
            case_id=case_id,
        )
    ]
    return np.asarray(values, dtype=np.float64)


def _patch(cases: dict[str, Case], config: PatchConfig) -> npt.NDArray[np.float32]:
    spacing, shape = config.spacing_mm[::-1], config.shape[::-1]
    pairs = [patch_pair(cases[n].images[n], cases[n].roi, spacing_mm=spacing, shape=shape) for n in config.images]
    channels = [_intensity(intensities, config) for intensities, _ in pairs]
    return np.stack([*channels, pairs[0][1]])


def _intensity(patch: npt.NDArray[np.float32], config: PatchConfig) -> npt.NDArray[np.float32]:
    if config.window is not None:
        low, high = config.window
        return ((np.clip(patch, low, high) - low) / (high - low)).astype(np.float32)
    spread = float(patch.std())
    return ((patch - patch.mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)


class Preparation:
    """The work list of a site: every row of the manifest ends as a prepared case or a fault.

    Parameters
    ----------
    cache : Path
        Folder of finished cases.
    processes : int
        Cases prepared at the same time.
    note : callable
        Told each fault's sentence, for the site's own log.
    """

    def __init__(
        self, manifest: Manifest, study: StudyConfig, *, cache: Path, processes: int, note: Callable[[CaseError], None]
    ) -> None:
        self.study = study
        self.pending = list(manifest.rows)
        self.done: dict[str, tuple[CaseRow, PreparedCase]] = {}
        self.faults: list[CaseError] = []
        self._cache = cache
        self._processes = processes
        self._note = note
        self._settings = settings_digest(study)
        cache.mkdir(parents=True, exist_ok=True)
        for fault in manifest.faults:
            self._refuse(fault)

    @property
    def n_listed(self) -> int:
        return len(self.pending) + len(self.done) + len(self.faults)

    def advance(self, budget_s: float) -> None:
        """Prepare pending cases for about ``budget_s`` seconds; at least one case, so that work always ends."""
        end = monotonic() + budget_s
        with self._pool() as pool:
            while self.pending:
                batch, self.pending = self.pending[: 2 * self._processes], self.pending[2 * self._processes :]
                futures = [
                    (row, pool.submit(_cached_case, row, self.study, self._cache, self._settings)) for row in batch
                ]
                for row, future in futures:
                    try:
                        self.done[row.case_id] = (row, future.result())
                    except CaseError as fault:
                        self._refuse(fault)
                if monotonic() >= end:
                    return

    def _pool(self) -> ProcessPoolExecutor | ThreadPoolExecutor:
        if self._processes == 1:
            return ThreadPoolExecutor(1)
        return ProcessPoolExecutor(self._processes)

    def _refuse(self, fault: CaseError) -> None:
        self.faults.append(fault)
        self._note(fault)


def settings_digest(study: StudyConfig) -> str:
    """SHA-256 of everything in the study that shapes a prepared case."""
    content = {
        "format": CACHE_FORMAT,
        "version": VERSION,
        "images": [image.model_dump(mode="json") for image in study.images],
        "radiomics": [[entry.image, preset(entry.preset).model_dump(mode="json")] for entry in study.radiomics],
        "patch": study.patch.model_dump(mode="json") if study.patch else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _cached_case(row: CaseRow, study: StudyConfig, cache: Path, settings: str) -> PreparedCase:
    file = cache / f"{_key(row, settings)}.npz"
    found = _read_cache(file, row.case_id)
    if found is None:
        found = prepare_case(row, study)
        _write_cache(file, found)
    return found


def _key(row: CaseRow, settings: str) -> str:
    sha = hashlib.sha256(settings.encode())
    try:
        for name in sorted(row.images):
            for path in (row.images[name].image, row.images[name].roi):
                with path.open("rb") as file:
                    sha.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise CaseError(
            row.case_id, f"cannot read {error.filename}: {error.strerror}", code=Code.FILE_UNREADABLE
        ) from error
    return sha.hexdigest()


def _read_cache(file: Path, case_id: str) -> PreparedCase | None:
    """The cached case, or None; a damaged file counts as none and is made again."""
    try:
        with np.load(file, allow_pickle=False) as content:
            patch = content["patch"] if "patch" in content.files else None
            return PreparedCase(case_id, content["features"], patch, tuple(str(s) for s in content["steps"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _write_cache(file: Path, case: PreparedCase) -> None:
    patch = {} if case.patch is None else {"patch": case.patch}
    handle, partial = tempfile.mkstemp(prefix=".partial-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, features=case.features, steps=np.array(case.steps, dtype=np.str_), **patch)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)
