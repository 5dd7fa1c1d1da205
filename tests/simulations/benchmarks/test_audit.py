"""The audit's table goes between the marks of its page, and nothing else of the page changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from simulations.audit.findings import Cell, Finding
from simulations.audit.protections import NONE, NOT_USED, PRIVATE, SECURE_SUM
from simulations.benchmarks.audit import BEGIN, END, PICTURES, write_page

FOUND = Finding(
    "canaries",
    "linear model",
    "epsilon_lower_bound",
    {NONE: Cell(4.2), PRIVATE: Cell(1.7, 1.25, 2.0, note="1000 trials"), SECURE_SUM: Cell(None, note=NOT_USED)},
    "0.000",
)


def test_table_and_pictures_of_an_audit_are_put_into_the_page(tmp_path: Path):
    found, page = tmp_path / "audit", tmp_path / "page.md"
    found.mkdir()
    (tmp_path / "figures").mkdir()
    (found / "audit.json").write_text(json.dumps({"findings": [asdict(FOUND)]}))
    for picture in PICTURES:
        (found / picture.removeprefix("audit-")).write_bytes(picture.encode())
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_page(page, found)
        lines = page.read_text().splitlines()
        assert (lines[0], lines[-1]) == ("before", "after")
        assert [line for line in lines if line.startswith("| canaries")] == [
            "| canaries: linear model | epsilon is at least | **4.200** | **1.700** (1.250 to 2.000); 1000 trials "
            f"| {NOT_USED} | 0.000 |"
        ]
        assert "old" not in page.read_text()
    assert (tmp_path / "figures" / PICTURES[0]).read_bytes() == PICTURES[0].encode()
