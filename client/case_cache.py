"""Prepared cases on disk, so that a killed site goes on where it was and a second run extracts nothing.

A finished case is one file, written atomically under a key of everything that shaped it: the bytes of its files, the
study's image, feature and patch settings, and the versions that compute. So nothing in here is ever out of date, and
the whole folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from client.ingest.manifest import CaseRow
from client.preparation import PreparedCase, prepare_row, settings_digest
from common.config.study import StudyConfig
from common.errors import CaseError, Code
from common.files import remove_abandoned, write_atomic
from common.messages import TRAINING

CACHE_FORMAT = 3
"""Raised when what is cached, or its meaning, changes."""


class CaseCache:
    """The prepared cases of one table of a study.

    Parameters
    ----------
    folder : Path
        May be shared by studies.
    study : StudyConfig
        With the landmarks that were learned: they are part of the key.
    table : str
        As in `common.messages.Prepare`.
    """

    def __init__(self, folder: Path, study: StudyConfig, table: str = TRAINING) -> None:
        self.folder = folder
        self.study = study
        self.table = table
        self._settings = f"{CACHE_FORMAT}\n{settings_digest(study, table)}"
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)

    def get(self, row: CaseRow) -> PreparedCase:
        """The case from its file, or prepared now and kept.

        Raises
        ------
        CaseError
            If the case cannot be prepared. Whatever a library raises for one case is a fault of this case: the other
            cases of the site go on.
        StateError
            If the cache cannot be written.
        """
        file = self.folder / f"{self._key(row)}.npz"
        found = _read(file, row.case_id)
        if found is None:
            try:
                found = prepare_row(row, self.study, self.table)
            except CaseError:
                raise
            except Exception as error:  # see above; its sentence stays in the site's log
                reason = f"{type(error).__name__}: {error}"
                raise CaseError(row.case_id, reason, code=Code.INTERNAL) from error
            write_atomic(file, _content(found), durable=False)  # the zip's checksums tell a damaged file
        return found

    def _key(self, row: CaseRow) -> str:
        sha = hashlib.sha256(self._settings.encode())
        try:
            for name in sorted(row.images):
                for path in (row.images[name].image, row.images[name].roi):
                    with path.open("rb") as file:
                        sha.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            code = Code.FILE_MISSING if isinstance(error, FileNotFoundError) else Code.FILE_UNREADABLE
            raise CaseError(row.case_id, f"cannot read {error.filename}: {error.strerror}", code=code) from error
        return sha.hexdigest()


def _read(file: Path, case_id: str) -> PreparedCase | None:
    """The cached case, or None; a damaged file counts as none and is made again."""
    try:
        # opened here, because np.load leaves a damaged file open
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            patch = content["patch"] if "patch" in content.files else None
            return PreparedCase(case_id, content["features"], patch, tuple(str(s) for s in content["steps"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _content(case: PreparedCase) -> bytes:
    arrays: dict[str, Any] = {"features": case.features, "steps": np.array(case.steps, dtype=np.str_)}
    if case.patch is not None:
        arrays["patch"] = case.patch
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
