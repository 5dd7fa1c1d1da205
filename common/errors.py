"""The exceptions of fedrad.

::

    FedradError
    ├── ConfigError        a study or site file is wrong: every fault of the file at once
    ├── CaseError          one case cannot be used; the rest of the site goes on
    ├── StatisticError     a statistic, selection or model of the study is undefined on these data
    ├── MetricError        an evaluation measure is undefined on these data
    ├── PrivacyError       a request would break a privacy promise; nothing was computed
    ├── GateError          the hospital's own rules refuse the request
    ├── MessageError       something that arrived is not a valid message
    ├── FederationError    a site or the coordinator did not answer in time, or answered with a failure
    ├── AbortedError       a person ended the study
    └── StateError         a file that fedrad keeps (checkpoint, ledger, cache) is damaged or of another study

Each carries a ``code``. The sentence is for the person at the machine where it was raised; only the code may leave a
site (``client/flower_app.py``), because the sentence may hold a path or a case id.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Every code that may leave a site; ``docs/errors.md`` explains each to a coordinator."""

    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    GRID_MISMATCH = "grid_mismatch"
    ROI_EMPTY = "roi_empty"
    ROI_LABEL_ABSENT = "roi_label_absent"
    ROI_TOO_SMALL = "roi_too_small"
    VOXELS_NOT_FINITE = "voxels_not_finite"
    INTENSITY_CONSTANT = "intensity_constant"
    INTENSITY_OUT_OF_RANGE = "intensity_out_of_range"
    NOT_3D = "not_3d"
    ONE_SLICE = "one_slice"
    CASE_DUPLICATE = "case_duplicate"
    SITE_UNKNOWN = "site_unknown"
    OUTCOME_MISSING = "outcome_missing"
    OUTCOME_INVALID = "outcome_invalid"
    CLINICAL_MISSING = "clinical_missing"
    CLINICAL_INVALID = "clinical_invalid"
    COLUMN_MISSING = "column_missing"
    FEATURE_UNDEFINED = "feature_undefined"
    CASE_INVALID = "case_invalid"
    CONFIG = "config"
    STATISTIC = "statistic"
    METRIC = "metric"
    PRIVACY = "privacy"
    GATE = "gate"
    GATE_LIMIT = "gate_limit"
    SITE_STOPPED = "site_stopped"
    SMALL_CELL = "small_cell"
    BUDGET_EXCEEDED = "budget_exceeded"
    STUDY_NOT_APPROVED = "study_not_approved"
    BUNDLE_NOT_ALLOWED = "bundle_not_allowed"
    VERSION_MISMATCH = "version_mismatch"
    MESSAGE = "message"
    FEDERATION = "federation"
    SITE_SILENT = "site_silent"
    BASE_ABSENT = "base_absent"
    STATE = "state"
    INTERNAL = "internal"


class FedradError(Exception):
    """Base of all errors that fedrad raises on purpose."""

    default_code = Code.INTERNAL

    def __init__(self, message: str, *, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class ConfigError(FedradError):
    """A study or site file is wrong; ``faults`` lists every fault, each with where, got and expected."""

    default_code = Code.CONFIG

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        self.source = source
        self.faults = tuple(faults)
        listing = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{source}: {len(self.faults)} fault{'s' * (len(self.faults) != 1)}{listing}")

    def __reduce__(self) -> tuple[Any, ...]:
        # the default pickles the sentence alone, and cannot be undone in the other process
        return type(self), (self.source, self.faults), self.__dict__


class CaseError(FedradError):
    """One case cannot be used. ``str(error)`` names the case and the reason and stays at the site."""

    default_code = Code.CASE_INVALID

    def __init__(self, case_id: str, reason: str, *, code: Code | None = None) -> None:
        super().__init__(f"case {case_id}: {reason}", code=code)
        self.case_id = case_id
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.case_id, self.reason), self.__dict__


class StatisticError(FedradError):
    """A statistic, selection or model is undefined on these data (it is never turned into a number)."""

    default_code = Code.STATISTIC


class MetricError(FedradError):
    """An evaluation measure is undefined on these data, for example an AUC with one class."""

    default_code = Code.METRIC


class PrivacyError(FedradError):
    """A request would break a privacy promise; nothing was computed."""

    default_code = Code.PRIVACY


class GateError(FedradError):
    """The hospital's own rules refuse the request."""

    default_code = Code.GATE


class MessageError(FedradError):
    """Something that arrived is not a valid message."""

    default_code = Code.MESSAGE


class FederationError(FedradError):
    """A site or the coordinator did not answer in time, or answered with a failure."""

    default_code = Code.FEDERATION


class AbortedError(FedradError):
    """A person ended the study; nothing is wrong with it."""

    default_code = Code.FEDERATION


class StateError(FedradError):
    """A file that fedrad keeps (checkpoint, ledger, cache) is damaged or belongs to another study."""

    default_code = Code.STATE


def exit_code(error: FedradError) -> int:
    """With which code a command ends: 2 for a wrong file, 3 for a study that the federation cannot run, else 1."""
    if isinstance(error, ConfigError):
        return 2
    return 3 if isinstance(error, FederationError | GateError) else 1
