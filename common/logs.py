"""Logs as JSON lines: time (UTC, ISO 8601), level, event, study and round where they are known, and no identifiers.

What fedrad itself says comes through `JsonLog.say` and `JsonLog.journal`, whose values are names of sites, models and
phases, codes, counts and sentences of the coordinator or of a site's connection. What a library logs (Flower, uvicorn,
warnings) is told by its place in the code and the type of its exception alone: its text may hold a path or a value that
it was handed, and nobody can promise otherwise.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from common.errors import FedradError, exit_code

INTERRUPTED = 130
LogFormat = Literal["text", "json"]
WARNINGS = {"awaited", "control", "paused", "resumed", "aborted", "dropped"}
ERRORS = {"failed"}


class JsonLog:
    """Writes one JSON object a line.

    Parameters
    ----------
    stream : text stream, optional
        Standard error where left out.
    process : str
        Which process speaks: ``coordinator`` or ``site``.
    """

    def __init__(self, process: str, stream: TextIO | None = None) -> None:
        self._process = process
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._study = ""

    def say(self, text: str) -> None:
        """A sentence of fedrad about connections and the queue."""
        self.write("info", "told", {"text": text})

    def journal(self, line: Mapping[str, Any]) -> None:
        """A journal line of the running study."""
        event = str(line["event"])
        if event == "study":
            self._study = str(line["name"])
        refused = event == "answer" and line["code"]
        level = "error" if event in ERRORS else "warning" if event in WARNINGS or refused else "info"
        left_out = {"event", "time", "round_number"} | ({"text"} if event in ERRORS else set())  # it may hold a path
        values = {key: value for key, value in line.items() if key not in left_out}
        self.write(level, event, values, round_number=int(line.get("round_number", 0)), time=str(line["time"]))

    def failed(self, event: str, error: FedradError) -> None:
        """An error's type and code; its sentence may hold a path."""
        self.write("error", event, {"exception": type(error).__name__, "code": str(error.code)})

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """For the whole of a command: everything goes into this format, also how the process ends.

        Raises
        ------
        SystemExit
            In place of an error of fedrad, whose sentence would be printed as text.
        """
        self.take_over()
        try:
            yield
        except FedradError as error:
            self.failed("ended", error)
            raise SystemExit(exit_code(error)) from None
        except KeyboardInterrupt:
            self.write("info", "interrupted", {})
            raise SystemExit(INTERRUPTED) from None

    def write(
        self, level: str, event: str, values: Mapping[str, Any], *, round_number: int = 0, time: str = ""
    ) -> None:
        content: dict[str, Any] = {
            "time": time or datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            "process": self._process,
            "study": self._study,
            "round": round_number,
        }
        line = json.dumps(content | {key: value for key, value in values.items() if key not in content})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def take_over(self) -> None:
        """Route everything that libraries log, warn of or fail with into this format, for the rest of the process."""
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self)]
        root.setLevel(logging.WARNING)
        for name in list(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
        logging.captureWarnings(True)
        sys.excepthook = self._uncaught
        threading.excepthook = lambda args: self._uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    def _uncaught(self, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        self.write("error", "uncaught", {"exception": kind.__name__, "where": _innermost(trace)})


class _Handler(logging.Handler):
    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        values = {"logger": record.name, "where": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[0] is not None:
            values |= {"exception": record.exc_info[0].__name__, "where": _innermost(record.exc_info[2])}
        self._log.write(record.levelname.lower(), "library", values)


def _innermost(trace: TracebackType | None) -> str:
    """Module and line where an exception arose; no path."""
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_globals.get('__name__', '')}:{trace.tb_lineno}"
