"""A running study in the terminal: one bar a site while cases are prepared, one a model and course while it trains.

Follows the journal's lines, so it works for a study in this process and for one whose journal is read from disk. Where
the output is no terminal, it prints a plain line now and then instead of bars.
"""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_EVERY_S = 5.0
"""Seconds between two plain lines of one bar where the output is no terminal."""


class StudyProgress:
    """Hand every journal line to `show`; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Take in one journal line; lines that show no progress are passed over."""
        event = line["event"]
        if event == "preparing":
            self._advance(f"{line['phase']} · {line['site']}", line["done"], line["listed"], "cases")
        elif event == "round":
            name = f"train {line['model']} · {line['course']}" + (f" · fold {line['fold'] + 1}" if line["fold"] else "")
            self._advance(name, line["round_number"], line["rounds"], f"loss {line['train_loss']:.4f}")
        elif event == "awaited":
            self.say(f"[yellow]waiting for {line['site']}[/] ({line['phase']}, attempt {line['attempt']})")
        elif event == "answer" and line["code"]:
            self.say(f"[yellow]{line['site']} refused {line['request']}:[/] {line['code']}")
        elif event == "note":
            self.say(escape(str(line["text"])))

    def _advance(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)
        if self._console.is_terminal:
            return
        due = monotonic() - self._printed.get(name, float("-inf")) >= PLAIN_EVERY_S
        if due or done == total:
            self._printed[name] = monotonic() if done < total else float("inf")
            self._console.print(f"{name}: {done}/{total} {note}", highlight=False)

    def say(self, text: str) -> None:
        """Print one sentence above the bars."""
        self._bars.console.print(text, highlight=False)
