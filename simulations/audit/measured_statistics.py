"""Statistics: the findings of property inference and differencing."""

from __future__ import annotations

from simulations.audit.findings import Cell, Finding
from simulations.audit.plan import AuditPlan
from simulations.audit.properties import PropertyResult
from simulations.audit.protections import NOT_USED, PROTECTIONS, SECURE_SUM, Protection, Protections
from simulations.audit.statistics_attack import differencing, property_inference
from simulations.audit.subject import Subject

TARGET = "moments of the table"


def measure_statistics(subject: Subject, plan: AuditPlan) -> tuple[Finding, ...]:
    """What counts, sums and squares give away, behind the study's small-cell rule; nothing where there is no table."""
    protections = Protections.of_statistics(subject.study, what_if=plan.what_if)
    shares: dict[Protection, Cell] = dict.fromkeys(PROTECTIONS, Cell(None, note=NOT_USED))
    rows: dict[Protection, Cell] = dict.fromkeys(PROTECTIONS, Cell(None, note=NOT_USED))
    for protection in protections.measured:
        inferred = property_inference(subject, plan.attribute, protection)
        row = differencing(subject, protection)
        if inferred is not None:
            shares[protection] = _property_cell(inferred)
        if row is not None:
            stayed = "the other hospitals' cases stayed the same"
            rows[protection] = Cell(row, note=stayed if protection == SECURE_SUM else "one patient added")
    name = str(plan.attribute) if plan.attribute else "the outcome's last class"
    attack = f"property inference: share of {name}"
    found = (
        Finding(attack, TARGET, "property_explained", shares, "0 or less", protections.used),
        Finding("differencing", TARGET, "difference_correlation", rows, "about 0", protections.used),
    )
    return tuple(finding for finding in found if any(cell.value is not None for cell in finding.cells.values()))


def _property_cell(result: PropertyResult) -> Cell:
    note = f"share known to {result.error:.2f} on average, a guess to {result.error_of_guess:.2f}"
    return Cell(result.explained, note=note)
