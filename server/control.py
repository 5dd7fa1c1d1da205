"""Pause, resume and abort: a person's word, kept in one file of the run, that the study heeds between two questions.

The file (``control.json``) is written whole and survives every restart: a paused study that is started again waits, an
aborted one does not go on. Whoever writes it (the web page, ``fedrad coordinator pause``) leaves a line in the journal
with their name, and so does the study when it heeds it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from common.errors import AbortedError, StateError
from common.federation import Answer, Federation
from common.files import write_atomic
from common.journal import JsonLines
from common.masking_messages import AdvertiseKeys
from common.messages import AskStatistic, Evaluate, Hello, Request, Train

CONTROL_FILE = "control.json"
POLL_S = 0.5
"""How soon a paused study notices that it may go on."""

HELD = (Hello, AskStatistic, Train, Evaluate, AdvertiseKeys)
"""Questions that a pause holds back: each begins something. The further steps of a masked sum are not held, and
preparing is not, because its deadline counts hours of work at the hospitals."""

Wish = Literal["run", "pause", "abort"]


@dataclass(frozen=True)
class Order:
    """What shall happen with a study, who said so, and when (ISO 8601 in UTC; empty where nobody did)."""

    wish: Wish = "run"
    by: str = ""
    time: str = ""


class StudyControl:
    """The control file of one run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CONTROL_FILE

    def order(self) -> Order:
        """What was said last.

        Raises
        ------
        StateError
            If the file is damaged: a study does not guess whether it may go on.
        """
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            wish, by, time = (str(content[key]) for key in ("wish", "by", "time"))
        except FileNotFoundError:
            return Order()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StateError(f"{self._path} cannot be read: {error}") from error
        if wish not in get_args(Wish):
            raise StateError(f"{self._path} says {wish!r}, expected one of {', '.join(get_args(Wish))}")
        return Order(cast("Wish", wish), by, time)

    def give(self, wish: Wish, *, by: str, journal: JsonLines) -> None:
        """Write what shall happen.

        Raises
        ------
        AbortedError
            If the study was aborted: there is nothing to be said after that.
        StateError
            If the file cannot be written.
        """
        self.require_not_aborted()
        order = Order(wish, by, datetime.now(UTC).isoformat(timespec="milliseconds"))
        write_atomic(self._path, json.dumps(asdict(order)).encode())
        journal.write("control", wish=wish, by=by)

    def require_not_aborted(self) -> None:
        order = self.order()
        if order.wish == "abort":
            raise AbortedError(f"the study was aborted by {order.by} at {order.time[:19]} UTC")


class ControlledFederation:
    """A federation that asks nobody while its study is paused, and ends with `AbortedError` when it is aborted.

    What a question already set going goes on: a pause begins when the answers to it are in, so a round is complete or
    not begun. An abort is heeded after every answer.
    """

    def __init__(self, federation: Federation, control: StudyControl, journal: JsonLines) -> None:
        self._federation = federation
        self._control = control
        self._journal = journal

    def sites(self) -> tuple[str, ...]:
        return self._federation.sites()

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        """See `common.federation.Federation.ask`."""
        self._control.require_not_aborted()
        if any(isinstance(request, HELD) for request in requests.values()):
            self._wait_while_paused()
        return self._answers(self._federation.ask(requests, deadline_s=deadline_s))

    def _answers(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        for answer in answers:
            yield answer
            self._control.require_not_aborted()

    def _wait_while_paused(self) -> None:
        order = self._control.order()
        if order.wish != "pause":
            return
        self._journal.write("paused", by=order.by)
        while order.wish == "pause":
            threading.Event().wait(POLL_S)
            order = self._control.order()
        self._control.require_not_aborted()
        self._journal.write("resumed", by=order.by)
