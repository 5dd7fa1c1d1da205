"""Conformance with the IBSI 1 reference values: the presets ``ibsi-*`` on the phantoms, as a table.

The data folder holds ``ibsi1_reference_values.csv`` and the two phantoms as published. A value conforms where, rounded
to 3 significant digits, it lies within the published tolerance of the published value.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.radiomics.catalogue import IBSI_FEATURES, split_tag
from client.radiomics.loading import extract_files
from client.radiomics.settings import preset
from common.errors import ConfigError

DIGITAL, CT = "ibsi_1_digital_phantom", "ibsi_1_ct_radiomics_phantom"
CONFIGURATIONS = {
    "digital_phantom": ("ibsi-digital", DIGITAL),
    "A": ("ibsi-a", CT),
    "B": ("ibsi-b", CT),
    "C": ("ibsi-c", CT),
    "D": ("ibsi-d", CT),
    "E": ("ibsi-e", CT),
}
"""Name in the reference file -> preset and phantom."""

SIGNIFICANT_DIGITS = 3

ROUNDING = 1e-9
"""Share of the reference by which a decimal number may miss the tolerance through its binary form alone."""


@dataclass(frozen=True)
class Comparison:
    """One feature of one configuration; ``reference`` is None where the data folder has no published value."""

    configuration: str
    ibsi_tag: str
    value: float
    reference: float | None
    tolerance: float

    @property
    def conforms(self) -> bool:
        return self.reference is not None and within_tolerance(self.value, self.reference, self.tolerance)


def within_tolerance(value: float, reference: float, tolerance: float) -> bool:
    """True where ``value``, rounded to 3 significant digits, is within ``tolerance`` of ``reference``."""
    rounded = value
    if value != 0:
        rounded = round(value, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value))))
    return abs(rounded - reference) <= tolerance + ROUNDING * max(1.0, abs(reference))


def compare(data: Path) -> tuple[Comparison, ...]:
    """Run every configuration and set each value beside the published one."""
    references = _read_references(data / "ibsi1_reference_values.csv")
    comparisons = []
    for configuration, (name, phantom) in CONFIGURATIONS.items():
        folder = data / phantom / "nifti"
        image, roi = folder / "image" / "phantom.nii.gz", folder / "mask" / "mask.nii.gz"
        for entry in extract_files(image, roi, preset(name), label=1, case_id=phantom):
            reference, tolerance = references.get((configuration, entry.ibsi_tag), (None, 0.0))
            comparisons.append(Comparison(configuration, entry.ibsi_tag, entry.value, reference, tolerance))
    return tuple(comparisons)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Conformance with IBSI 1",
        "",
        "Made by `fedrad radiomics ibsi --data DIR --out docs/ibsi.md`; do not edit. Phantoms and reference values: "
        "Zwanenburg et al., Radiology 2020, doi 10.1148/radiol.2020191145. A value conforms where, rounded to 3 "
        "significant digits, it lies within the published tolerance of the published value.",
        "",
        "| configuration | preset | conform | with reference | computed |",
        "|---|---|---|---|---|",
    ]
    for configuration, (name, _) in CONFIGURATIONS.items():
        own = [entry for entry in comparisons if entry.configuration == configuration]
        known = [entry for entry in own if entry.reference is not None]
        n_conform = sum(entry.conforms for entry in known)
        lines.append(f"| {configuration} | `{name}` | {n_conform} | {len(known)} | {len(own)} |")
    lines += ["", *_misses(comparisons)]
    for configuration in CONFIGURATIONS:
        lines += _table(configuration, [entry for entry in comparisons if entry.configuration == configuration])
    return "\n".join(lines) + "\n"


def _misses(comparisons: Sequence[Comparison]) -> list[str]:
    missed = [entry for entry in comparisons if entry.reference is not None and not entry.conforms]
    unknown = sorted({entry.configuration for entry in comparisons if entry.reference is None})
    lines = ["Every value with a reference conforms."]
    if missed:
        listed = (f"{entry.configuration} `{entry.ibsi_tag}`" for entry in missed)
        lines = [f"{len(missed)} values do not conform: {', '.join(listed)}."]
    if unknown:
        lines.append(
            f"Without a reference in the data folder: {', '.join(unknown)}; their values below are fedrad's alone."
        )
    return [" ".join(lines), ""]


def _table(configuration: str, entries: Sequence[Comparison]) -> list[str]:
    lines = [
        f"## {configuration}",
        "",
        "| tag | code | reference | tolerance | fedrad | |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        code = IBSI_FEATURES[split_tag(entry.ibsi_tag)[0]].ibsi_code
        known = entry.reference is not None
        reference = f"{entry.reference:g}" if entry.reference is not None else ""
        tolerance = f"{entry.tolerance:g}" if known else ""
        verdict = ("yes" if entry.conforms else "**no**") if known else ""
        lines.append(f"| {entry.ibsi_tag} | {code} | {reference} | {tolerance} | {entry.value:.6g} | {verdict} |")
    return [*lines, ""]


def _read_references(path: Path) -> dict[tuple[str, str], tuple[float | None, float]]:
    if not path.is_file():
        raise ConfigError(str(path), ["file of the IBSI 1 reference values is missing"])
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (line["config"], line["ibsi_tag"]): (float(line["value"]), float(line["tolerance"]))
            for line in csv.DictReader(file)
            if line["value"]
        }
