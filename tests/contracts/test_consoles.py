"""Every terminal of the project prints colons as they are: in a fingerprint, ``:cd:`` is no disc."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def consoles() -> list[tuple[str, ast.Call]]:
    found = []
    for package in ("client", "server", "simulations", "common", "configs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_no_console_replaces_text_by_emoji() -> None:
    assert len(consoles()) > 10
    off = {place for place, call in consoles() for key in call.keywords if key.arg == "emoji" and not key.value.value}
    assert {place for place, _ in consoles()} - off == set()
