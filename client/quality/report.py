"""The report as one HTML file: no script, nothing fetched, no case id, no path."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from client.quality.charts import intensity_chart, roi_chart, spacing_chart
from client.quality.findings import Finding, find, missing_clinical, spacing_text
from client.quality.measure import CaseQuality, ImageQuality
from common.error_texts import explain
from common.errors import CaseError

MOST_PICTURED = 200
"""Cases shown with pictures; of more, the ones with findings come first."""


@dataclass(frozen=True)
class ImageSection:
    """What the page shows of one image over all cases."""

    name: str
    n_cases: int
    table: tuple[tuple[str, str], ...]
    charts: tuple[str, ...]


@dataclass(frozen=True)
class ClinicalRow:
    """A clinical column: how many have it, its range, and which cases lack it."""

    column: str
    n_present: int
    summary: str
    missing: tuple[int, ...]


def write_quality_report(
    cases: Iterable[CaseQuality], exclusions: Sequence[CaseError], out: Path, *, title: str
) -> tuple[Finding, ...]:
    """Write the report of a site.

    Parameters
    ----------
    cases : iterable of CaseQuality
        Usable cases. They are numbered from 1 in the order of their ids, so that the hospital finds them again.
    exclusions : sequence of CaseError
        Why others cannot be used; only their codes are shown.
    out : Path
        The HTML file; written whole or not at all.
    title : str
        For the top of the page, for example the site's name.

    Returns
    -------
    tuple of Finding
        What the report points at.
    """
    ordered = sorted(cases, key=lambda case: case.case_id)
    found = find(ordered)
    pictured = _pictured(ordered, found)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("client"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["numbers"] = _ranges
    html = environment.get_template("quality.html").render(
        title=title,
        n_usable=len(ordered),
        n_excluded=len(exclusions),
        exclusions=[(code, n, explain(code)) for code, n in sorted(Counter(str(e.code) for e in exclusions).items())],
        findings=found,
        sections=[_section(name, numbered, found) for name, numbered in _by_image(ordered).items()],
        clinical=_clinical(ordered),
        cases=[(i, ordered[i - 1].images) for i in pictured],
        n_unpictured=len(ordered) - len(pictured),
        of_case={i: [finding for finding in found if i in finding.cases] for i in pictured},
    )
    _write(out, html)
    return found


def _by_image(cases: Sequence[CaseQuality]) -> dict[str, dict[int, ImageQuality]]:
    found: dict[str, dict[int, ImageQuality]] = {}
    for i, case in enumerate(cases, start=1):
        for name, quality in case.images.items():
            found.setdefault(name, {})[i] = quality
    return found


def _section(name: str, numbered: Mapping[int, ImageQuality], found: Sequence[Finding]) -> ImageSection:
    qualities = list(numbered.values())
    small_or_large = {i for f in found if f.image == name and f.text.startswith("ROI volume") for i in f.cases}
    table = (
        ("matrix (columns x rows x slices)", _counted(" x ".join(map(str, q.geometry.shape)) for q in qualities)),
        ("spacing (x, y, z; mm)", _counted(spacing_text(q) for q in qualities)),
        ("stack", _counted(q.geometry.plane for q in qualities)),
        ("largest tilt (degrees)", _spread([q.geometry.tilt_deg for q in qualities])),
        ("slice to pixel spacing", _spread([q.geometry.ratio for q in qualities])),
        ("median intensity of the body", _spread([q.percentiles[2] for q in qualities])),
        ("ROI volume (ml)", _spread([q.roi.volume_ml for q in qualities])),
        ("ROI voxels", _spread([float(q.roi.n_voxels) for q in qualities])),
    )
    charts = intensity_chart(qualities), roi_chart(numbered, marked=frozenset(small_or_large)), spacing_chart(numbered)
    return ImageSection(name, len(qualities), table, charts)


def _clinical(cases: Sequence[CaseQuality]) -> list[ClinicalRow]:
    rows = []
    for column, missing in missing_clinical(cases).items():
        values = np.array([case.clinical.get(column, np.nan) for case in cases])
        values = values[~np.isnan(values)]
        if "=" in column or set(values) <= {0.0, 1.0}:
            summary = f"{int(values.sum())} of {values.size} yes" if values.size else "-"
        else:
            summary = _spread(list(values))
        rows.append(ClinicalRow(column, int(values.size), summary, missing))
    return rows


def _pictured(cases: Sequence[CaseQuality], found: Sequence[Finding]) -> list[int]:
    everyone = range(1, len(cases) + 1)
    if len(cases) <= MOST_PICTURED:
        return list(everyone)
    named = {i for finding in found for i in finding.cases}
    return sorted(sorted(everyone, key=lambda i: (i not in named, i))[:MOST_PICTURED])


def _counted(values: Iterable[str], *, most: int = 6) -> str:
    """The commonest values and how often each occurs."""
    counts = Counter(values).most_common()
    shown = [f"{value} ({n})" for value, n in counts[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} others" if len(counts) > most else "")


def _spread(values: Sequence[float]) -> str:
    """Median, quartiles and range in words."""
    if not values:
        return "-"
    low, q1, median, q3, high = (_number(x) for x in np.percentile(values, [0, 25, 50, 75, 100]))
    return f"median {median} (quartiles {q1} to {q3}, range {low} to {high})"


def _number(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def _ranges(numbers: Sequence[int]) -> str:
    """Case numbers in few characters: ``1-4, 7``."""
    spans: list[list[int]] = []
    for i in sorted(numbers):
        if spans and i == spans[-1][1] + 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _write(out: Path, text: str) -> None:
    handle, partial = tempfile.mkstemp(prefix=".partial-", dir=out.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(partial).replace(out)
    finally:
        Path(partial).unlink(missing_ok=True)
