"""The study report: one HTML file that needs no other file, no network and no script.

Sections: what came out, each model, cases, data flow, privacy, how to repeat the study. The texts live in the template,
the numbers come from `server.scoring` and `server.record`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.data_flow_words import readable_bytes
from common.error_texts import explain
from common.version import VERSION
from server.checkpoint import write_atomic
from server.courses import LOCAL
from server.data_flow import by_phase, by_site, hospital_flows, refusals
from server.figures import LineStyle, course_style
from server.record import UNASSIGNED, SiteCases, StudyResults
from server.report_models import model_sections
from server.report_overview import columns, course_label, headline_rows, headline_scale, reading_notes, warnings
from server.report_table import table_section
from server.report_training_privacy import privacy_section
from server.scoring import headline_label


@dataclass(frozen=True)
class LegendEntry:
    """A course and how it is drawn in every figure."""

    label: str
    style: LineStyle


@dataclass(frozen=True)
class Reason:
    """Cases of one hospital that were left out for one reason."""

    site: str
    code: str
    n: int
    meaning: str


def write_report(results: StudyResults, path: Path) -> None:
    """Write the report of a finished or unfinished study to ``path``."""
    write_atomic(path, page(results).encode())


def page(results: StudyResults) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=PackageLoader("server"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": readable_bytes, "thousands": _thousands, "duration": _duration}
    return environment.get_template("report.html.j2").render(_content(results))


def _content(results: StudyResults) -> Mapping[str, object]:
    return {
        "results": results,
        "study": results.study,
        "label": headline_label(results.study),
        "percent": f"{100 * results.study.evaluation.confidence:g} %",
        "written": datetime.now(UTC),
        "version": VERSION,
        "warnings": warnings(results),
        "columns": columns(results),
        "scale": headline_scale(results),
        "headline": headline_rows(results),
        "notes": reading_notes(results.study),
        "legend": _legend(results),
        "models": model_sections(results),
        "table": table_section(results),
        "reasons": _reasons(results),
        "total": _total(results),
        "unassigned": UNASSIGNED,
        "phases": by_phase(results),
        "site_flows": by_site(results),
        "flows": hospital_flows(results),
        "refusals": refusals(results),
        "absences": _absences(results),
        "privacy": privacy_section(results),
    }


def _legend(results: StudyResults) -> tuple[LegendEntry, ...]:
    training = results.study.training_sites
    return tuple(LegendEntry(course_label(course), course_style(course, training)) for course in results.courses)


def _reasons(results: StudyResults) -> tuple[Reason, ...]:
    return tuple(
        Reason(site.site, code, n, explain(code).meaning)
        for site in results.cases
        for code, n in sorted(site.exclusions.items())
    )


def _total(results: StudyResults) -> SiteCases:
    """All rows of all manifests together."""
    exclusions: dict[str, int] = {}
    for site in results.cases:
        for code, n in site.exclusions.items():
            exclusions[code] = exclusions.get(code, 0) + n
    listed, usable = (sum(getattr(site, name) for site in results.cases) for name in ("n_listed", "n_usable"))
    return SiteCases("all", "", listed, usable, exclusions)


def _absences(results: StudyResults) -> tuple[str, ...]:
    """Rounds that went on without a hospital, in words."""
    found = []
    for training in results.trainings:
        if training.course.startswith(LOCAL):
            continue
        for absence in training.absent:
            number, site, code = absence.split(" ")
            fold = f", fold {training.fold + 1}" if results.study.n_folds > 1 else ""
            found.append(f"{training.model}{fold}, round {number}: without {site} ({code})")
    return tuple(found)


def _thousands(n: int) -> str:
    """Groups of three digits, parted by a narrow space that does not break."""
    return f"{n:,}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
