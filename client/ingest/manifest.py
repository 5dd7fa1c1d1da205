"""The manifest: a CSV with one row a case. Every row becomes a `CaseRow` or a `CaseError`; no row is lost.

Cheap checks only: columns, duplicates, site, outcome, clinical values, and that the image files exist. What is inside
the images is checked when they are read (`client.preparation`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.config.study import (
    ClassOutcomeConfig,
    ClinicalConfig,
    ImageConfig,
    ScalarOutcomeConfig,
    StudyConfig,
    SurvivalOutcomeConfig,
)
from common.errors import CaseError, Code, ConfigError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "."})
"""Cells that mean "not known", in any case, as spreadsheets and R write them."""

MAX_LABEL = 64
"""Characters of a scanner's or subgroup's label."""


@dataclass(frozen=True)
class ImagePaths:
    """Where one image of a case and its ROI lie."""

    image: Path
    roi: Path


@dataclass(frozen=True)
class CaseRow:
    """A row that passed the manifest's checks.

    Parameters
    ----------
    clinical : mapping of coded column name to value
        Numbers as they are, categories one column a value (0 or 1); NaN where missing.
    outcome : tuple of float
        The class's index, or the value, or event (0 or 1) and days.
    labels : mapping of column to cell
        Text of the scanner's column and of those of subgroups; empty where not known.
    """

    case_id: str
    site: str
    images: Mapping[str, ImagePaths]
    clinical: Mapping[str, float]
    outcome: tuple[float, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All rows of a file: ``len(rows) + len(faults)`` is the number of rows with content below the header.

    ``sha256`` is of the bytes that were read: the file may change afterwards.
    """

    rows: tuple[CaseRow, ...]
    faults: tuple[CaseError, ...]
    sha256: str = ""


def clinical_names(columns: Sequence[ClinicalConfig]) -> tuple[str, ...]:
    """Names of the coded clinical columns, in order: a number keeps its name, a category is ``column=value``."""
    return tuple(name for column in columns for name in column.coded_names)


def read_manifest(path: Path, study: StudyConfig, *, data: Path, site: str | None) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    data : Path
        Folder that image paths start from.
    site : str, optional
        The hospital that reads; rows of others are faults. Without it every site of the study may occur.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no CSV, or has no usable header.
    """
    rows, faults, seen = [], [], set()
    content = _content(path)
    for number, cells in _lines(path, content):
        case_id = cells.get(study.case_column, "").strip()
        name = case_id or f"in line {number}"
        try:
            if not case_id:
                raise CaseError(name, f"column {study.case_column} is empty or absent", code=Code.COLUMN_MISSING)
            if case_id in seen:
                raise CaseError(name, f"line {number} repeats the case", code=Code.CASE_DUPLICATE)
            seen.add(case_id)
            rows.append(_row(case_id, cells, study, data=data, site=site))
        except CaseError as error:
            faults.append(error)
    return Manifest(tuple(rows), tuple(faults), hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror or error}"]) from error


def _lines(path: Path, content: bytes) -> list[tuple[int, dict[str, str]]]:
    try:
        # strict: a quotation mark that is never closed would swallow the rows behind it
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = _header(path, next(reader, []))
        # a short row lacks its last columns; a long one has cells that belong to none
        return [(reader.line_num, dict(zip(header, row, strict=False))) for row in reader if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), [f"is not a CSV file in UTF-8: {error}"]) from error


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    """Names of the columns; a spreadsheet's empty columns at the end keep an empty name."""
    names = [cell.strip() for cell in cells]
    if not any(names):
        raise ConfigError(str(path), ["has no header line"])
    if len(names) == 1 and ";" in names[0]:
        raise ConfigError(str(path), ["has columns that semicolons part, expected commas"])
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ConfigError(str(path), [f"column given twice: {name}" for name in twice])
    return names


def _row(case_id: str, cells: Mapping[str, str], study: StudyConfig, *, data: Path, site: str | None) -> CaseRow:
    if not _is_plain(case_id):
        raise CaseError(case_id, "case ids are letters, digits, dot, dash and underscore", code=Code.CASE_INVALID)
    return CaseRow(
        case_id=case_id,
        site=_site(case_id, cells, study, site),
        outcome=_outcome(case_id, cells, study),
        clinical=_clinical(case_id, cells, study.clinical),
        images={image.name: _paths(case_id, cells, image, data) for image in study.images},
        labels={column: _text(case_id, cells, column) for column in study.label_columns},
    )


def _is_plain(case_id: str) -> bool:
    return len(case_id) <= 64 and case_id[0] != "." and all(c.isalnum() or c in "._-" for c in case_id)


def _cell(case_id: str, cells: Mapping[str, str], column: str) -> str:
    if column not in cells:
        raise CaseError(case_id, f"column {column} is absent", code=Code.COLUMN_MISSING)
    return cells[column].strip()


def _site(case_id: str, cells: Mapping[str, str], study: StudyConfig, site: str | None) -> str:
    if study.site_column is None:
        if site is None:
            raise CaseError(case_id, "the study names no site_column", code=Code.SITE_UNKNOWN)
        return site
    got = _cell(case_id, cells, study.site_column)
    known = [site] if site is not None else [entry.name for entry in study.sites]
    if got not in known:
        raise CaseError(case_id, f"site {got!r}, expected {' or '.join(known)}", code=Code.SITE_UNKNOWN)
    return got


def _outcome(case_id: str, cells: Mapping[str, str], study: StudyConfig) -> tuple[float, ...]:
    outcome = study.outcome
    if isinstance(outcome, ClassOutcomeConfig):
        return (float(outcome.values.index(_label(case_id, cells, outcome.column, outcome.values))),)
    if isinstance(outcome, ScalarOutcomeConfig):
        return (_outcome_number(case_id, cells, outcome.column),)
    return _survival(case_id, cells, outcome)


def _survival(case_id: str, cells: Mapping[str, str], outcome: SurvivalOutcomeConfig) -> tuple[float, ...]:
    known = outcome.event_values + outcome.censored_values
    event = _label(case_id, cells, outcome.event_column, known) in outcome.event_values
    days = _outcome_number(case_id, cells, outcome.time_column)
    if days <= 0:
        raise CaseError(case_id, f"{outcome.time_column} is {days:g}, expected > 0", code=Code.OUTCOME_INVALID)
    return float(event), days


def _label(case_id: str, cells: Mapping[str, str], column: str, known: Sequence[str]) -> str:
    """The cell, which is one of ``known``; a label may be a word that elsewhere means "not known"."""
    got = _cell(case_id, cells, column)
    if got not in known:
        _outcome_cell(case_id, cells, column)
        reason = f"{column} is {got!r}, expected one of {', '.join(known)}"
        raise CaseError(case_id, reason, code=Code.OUTCOME_INVALID)
    return got


def _outcome_cell(case_id: str, cells: Mapping[str, str], column: str) -> str:
    got = _cell(case_id, cells, column)
    if got.lower() in MISSING:
        raise CaseError(case_id, f"{column} is empty", code=Code.OUTCOME_MISSING)
    return got


def _outcome_number(case_id: str, cells: Mapping[str, str], column: str) -> float:
    number = _number(_outcome_cell(case_id, cells, column))
    if number is None:
        raise CaseError(case_id, f"{column} is no finite number", code=Code.OUTCOME_INVALID)
    return number


def _number(text: str) -> float | None:
    """A finite number; Python's ``1_000`` is none in a spreadsheet."""
    if "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _clinical(case_id: str, cells: Mapping[str, str], columns: Sequence[ClinicalConfig]) -> dict[str, float]:
    coded: dict[str, float] = {}
    for column in columns:
        got = _cell(case_id, cells, column.column)
        if got.lower() in MISSING and got not in column.values:
            if column.missing == "exclude":
                raise CaseError(case_id, f"{column.column} is empty", code=Code.CLINICAL_MISSING)
            coded |= dict.fromkeys(clinical_names([column]), math.nan)
        elif column.kind == "categorical":
            coded |= _category(case_id, got, column)
        else:
            coded[column.column] = _in_range(case_id, got, column)
    return coded


def _category(case_id: str, got: str, column: ClinicalConfig) -> dict[str, float]:
    if got not in column.values:
        reason = f"{column.column} is {got!r}, expected one of {', '.join(column.values)}"
        raise CaseError(case_id, reason, code=Code.CLINICAL_INVALID)
    return {f"{column.column}={value}": float(got == value) for value in column.values[1:]}


def _in_range(case_id: str, got: str, column: ClinicalConfig) -> float:
    number = _number(got)
    if number is None:
        raise CaseError(case_id, f"{column.column} is {got!r}, expected a number", code=Code.CLINICAL_INVALID)
    low = -math.inf if column.minimum is None else column.minimum
    high = math.inf if column.maximum is None else column.maximum
    if not low <= number <= high:
        reason = f"{column.column} is {number:g}, expected {low:g} to {high:g}"
        raise CaseError(case_id, reason, code=Code.CLINICAL_INVALID)
    return number


def _text(case_id: str, cells: Mapping[str, str], column: str) -> str:
    """A cell that may become the name of a batch or subgroup; empty where not known."""
    got = _cell(case_id, cells, column)
    if got.lower() in MISSING:
        return ""
    if len(got) > MAX_LABEL or not got.isprintable():
        reason = f"{column} is no plain label of at most {MAX_LABEL} characters"
        raise CaseError(case_id, reason, code=Code.CLINICAL_INVALID)
    return got


def _paths(case_id: str, cells: Mapping[str, str], image: ImageConfig, data: Path) -> ImagePaths:
    """Paths from the manifest's own columns, or from the study's patterns; they must stay below ``data``."""
    found = {}
    for part, pattern in (("image", image.image), ("roi", image.roi)):
        listed = cells.get(f"{image.name}_{part}", "").strip()
        relative = Path(listed or pattern.replace("{case_id}", case_id))
        if relative.is_absolute() or ".." in relative.parts:
            raise CaseError(case_id, f"{image.name} {part} path leaves the data folder", code=Code.CASE_INVALID)
        found[part] = data / relative
        try:
            exists = found[part].is_file()
        except OSError as error:
            reason = f"cannot look for {found[part]}: {error.strerror or error}"
            raise CaseError(case_id, reason, code=Code.FILE_UNREADABLE) from error
        if not exists:
            raise CaseError(case_id, f"no file {found[part]}", code=Code.FILE_MISSING)
    return ImagePaths(found["image"], found["roi"])
