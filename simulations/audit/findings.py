"""What an audit found: one `Finding` a measured figure, with a cell for each protection, and the gate on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from common.config.release_gate import ReleaseGateConfig
from simulations.audit.protections import NONE, PROTECTIONS, Protection

Measure = Literal[
    "tpr_at_1_fpr", "epsilon_lower_bound", "inversion_ssim", "inversion_beyond_mean", "row_correlation",
    "property_explained", "difference_correlation",
]  # fmt: skip

MEASURES: Mapping[Measure, str] = {
    "tpr_at_1_fpr": "training cases found at 1 % false accusations",
    "epsilon_lower_bound": "epsilon is at least",
    "inversion_ssim": "structural similarity with the true patch",
    "inversion_beyond_mean": "correlation beyond the mean image",
    "row_correlation": "correlation with the true row of features",
    "property_explained": "explained variance of the hidden share",
    "difference_correlation": "correlation with the added patient's row",
}
"""What a measure is, in words."""


@dataclass(frozen=True)
class Cell:
    """A measured value with its interval, or a sentence why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def short(self) -> str:
        """The value and its interval, or why there is none."""
        if self.value is None:
            return self.note
        interval = "" if self.low is None or self.high is None else f"\n{self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f}{interval}"


@dataclass(frozen=True)
class Finding:
    """One figure of one attack on one thing.

    Parameters
    ----------
    attack : str
        For example "membership: likelihood ratio".
    target : str
        What was attacked.
    cells : mapping of protection to Cell
    chance : str
        What an attacker without any leak would get.
    used : tuple of Protection
        Those that the study uses for what is attacked.
    """

    attack: str
    target: str
    measure: Measure
    cells: Mapping[Protection, Cell]
    chance: str
    used: tuple[Protection, ...] = ()

    def as_run(self) -> Cell:
        """The study as it ran: the least that a used protection leaves, because together they protect no worse."""
        measured = [
            self.cells[name] for name in PROTECTIONS if name in self.used and self.cells[name].value is not None
        ]
        if not measured:
            return self.cells[NONE]
        return min(measured, key=lambda cell: cell.value if cell.value is not None else 0.0)


@dataclass(frozen=True)
class AuditResult:
    """All findings of an audit of one study.

    Parameters
    ----------
    in_use : tuple of str
        Protections of the study, in words.
    notes : tuple of str
        What was left out, and why.
    """

    study: str
    study_digest: str
    in_use: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``audit.json``."""
        return asdict(self)


def breaches(gate: ReleaseGateConfig, result: AuditResult) -> tuple[str, ...]:
    """Why the study's models may not be released, in sentences; empty where they may.

    A limit on something that was not measured is a breach: an audit that did not look cannot open a gate.
    """
    found: list[str] = []
    for measure, limit in gate.limits.items():
        findings = [finding for finding in result.findings if finding.measure == measure]
        values = [(finding, finding.as_run().value) for finding in findings]
        measured = [(finding, value) for finding, value in values if value is not None]
        if not measured:
            found.append(f"max_{measure} is {limit:g}, and this audit measured no such figure")
        found += [
            f"{finding.attack} on {finding.target}: {MEASURES[finding.measure]} is {value:.3f}, the study allows "
            f"{limit:g}"
            for finding, value in measured
            if value > limit
        ]
    return tuple(found)
