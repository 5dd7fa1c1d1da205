from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from common.data_flow_words import WHAT_CAME, WHAT_LEFT, readable_bytes
from common.error_texts import EXPLANATIONS, explain
from common.errors import Code
from common.messages import Reply, Request
from server.data_flow import by_phase, by_site
from server.figures import SITE_COLOURS, VARIABLES, course_style, site_style
from server.report import page, write_report
from server.results import load_results
from tests.server.finished_study import COURSES, POOLED, study_text, write_run

VOID = {"meta", "link", "br", "img", "hr", "input"}
DOCS = Path(__file__).parents[2] / "docs"


class Outline(HTMLParser):
    """Reads a page and refuses one whose elements do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "text"):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(folder, text=None, **choices):
    write_run(folder, text or study_text(), **choices)
    results = load_results([folder])
    return results, page(results)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return report(
        tmp_path_factory.mktemp("run"),
        courses=COURSES | POOLED,
        exclusions={"east": {"roi_empty": 2, "grid_mismatch": 1}},
        refused={"west": "small_cell"},
        simulated=True,
    )


KINDS = [
    {"text": study_text("classes")},
    {"text": study_text("number")},
    {"text": study_text("survival")},
    {"text": study_text(folds=3, minimum=5)},
    {"courses": {}, "finished": False},
    {"only_class": {"east": 0, "north": 0, "west": 0}},
    {"courses": {"federated": ("east", "north")}},
]


@pytest.mark.parametrize("choices", KINDS)
def test_every_kind_of_study_has_a_whole_page(tmp_path, choices):
    _, text = report(tmp_path, **choices)
    outline = Outline(text)
    assert [attributes["id"] for attributes in outline.all("section")] == [
        "results", "model-radiomics", "cases", "flow", "privacy", "repeat",
    ]  # fmt: skip


def test_needs_no_other_file_no_network_and_no_script(whole):
    _, text = whole
    outline = Outline(text)
    tags = {tag for tag, _ in outline.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert not re.search(r"@import|url\((?!#)", text)
    for tag, attributes in outline.elements:
        assert "src" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), tag


def test_ids_are_unique_and_links_lead_somewhere(whole):
    outline = Outline(whole[1])
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a[name] for _, a in outline.elements for name in ("href", "xlink:href") if name in a]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_figures_and_tables_speak_to_a_screen_reader(whole):
    outline = Outline(whole[1])
    figures = [svg for svg in outline.all("svg") if svg.get("role") == "img"]
    # ROC and calibration of the internal cases, two learning curves; the external hospital refused
    assert len(figures) == 4
    assert all(len(figure["aria-label"]) > 40 for figure in figures)
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in outline.all("svg"))
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in outline.all("th"))
    regions = [div for div in outline.all("div") if div.get("role") == "region"]
    assert len(regions) == len(outline.all("table"))
    assert all(region["aria-label"] and region["tabindex"] == "0" for region in regions)
    assert outline.all("html")[0]["lang"] == "en"


def test_exclusions_and_refusals_come_with_their_meaning(whole):
    words = Outline(whole[1]).text
    for code in ("roi_empty", "grid_mismatch", "site_unknown", "small_cell"):
        assert code in words
        assert EXPLANATIONS[Code(code)].meaning in words
    assert "radiomics, round 2: without north (site_silent)" in words
    assert "north was silent and asked again 1 time" in words


def test_warnings_stand_in_the_page(whole, tmp_path):
    words = Outline(whole[1]).text
    assert "proves that the pipeline runs, not that a model works" in words
    assert "no or no complete evaluation from west" in words
    _, text = report(tmp_path / "many", study_text(warn_below=5))
    assert "Read this first" not in text
    _, text = report(tmp_path / "cut", finished=False)
    assert "The study has not finished" in text


def test_counts_that_do_not_add_up_are_said(whole):
    results, text = whole
    assert "do not add up" not in text
    east, *others = results.cases
    broken = replace(results, cases=(replace(east, n_listed=east.n_listed + 1), *others))
    assert "east: the counts of cases do not add up" in Outline(page(broken)).text


def test_binning_is_said_where_it_matters(tmp_path):
    _, text = report(tmp_path / "rounded", study_text(minimum=5))
    assert "in 19 of 20 studies. The intervals" in text
    _, text = report(tmp_path / "exact", study_text(minimum=1))
    assert "in 19 of 20 studies. The intervals" not in text


def test_nothing_from_the_study_becomes_markup(tmp_path):
    _, text = report(tmp_path, study_text(title="<script>alert(1)</script> & co"))
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text
    Outline(text)


def test_equal_results_give_equal_pages(tmp_path):
    results, text = report(tmp_path)
    again = page(results)
    footer = re.compile(r"Written by fedrad .*")
    assert footer.sub("", text) == footer.sub("", again)


def test_the_page_is_written_whole(tmp_path):
    results, _ = report(tmp_path)
    write_report(results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_flows_by_phase_and_by_site_hold_the_same_bytes(whole):
    results, _ = whole
    phases, sites = by_phase(results), by_site(results)
    assert sum(phase.bytes_up for phase in phases) == sum(site.bytes_up for site in sites)
    assert sum(phase.bytes_down for phase in phases) == sum(site.bytes_down for site in sites)
    for site in sites:
        assert sum(phase.left.get(site.site, 0) for phase in phases) == site.bytes_up
    assert [phase.phase for phase in phases] == [
        "hello", "prepare", "statistics", "train radiomics", "evaluate radiomics", "finish",
    ]  # fmt: skip
    assert "west" not in next(phase for phase in phases if phase.phase == "statistics").left


def test_every_message_is_said_in_words():
    assert WHAT_LEFT.keys() == {reply.__name__ for reply in get_args(Reply)}
    assert WHAT_CAME.keys() == {request.__name__ for request in get_args(Request)}


@pytest.mark.parametrize(
    ("n", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_499, "999 kB"), (999_600, "1 MB")],
)
def test_bytes_for_readers(n, shown):
    assert readable_bytes(n) == shown


def test_every_code_has_its_text_and_its_line_in_the_documentation():
    assert EXPLANATIONS.keys() == set(Code)
    lines = (DOCS / "errors.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [f"| `{code}` | {EXPLANATIONS[code].meaning} | {EXPLANATIONS[code].remedy} |" for code in Code]
    assert "does not know" in explain("from_the_future").meaning


def test_courses_are_told_apart_without_colour_too():
    sites = tuple(f"s{i:02d}" for i in range(24))
    styles = [site_style(site, sites) for site in sites]
    assert len({(style.colour, style.dash) for style in styles}) == 24
    assert course_style("local-s03", sites) == styles[3]
    assert all(style.variable in VARIABLES.values() for style in styles)
    assert len({style.dash for style in styles[:4]}) == 4
    assert len(SITE_COLOURS) == 6
