"""A supervisor for one process: started again when it dies, with growing pauses, and given up after too many deaths.

For machines without systemd, containers without an orchestrator, and tests. The study itself goes on from its last
complete round; what this file adds is that somebody starts the process again.

    law: a command that fails is run again until it ends with 0, with a code that no restart can mend, on a stop signal,
         or after ``most_restarts`` deaths within ``window_s``; two runs of it never overlap.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Literal

from common.errors import StateError

PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Reason = Literal["done", "final", "stopped", "gave_up"]
Tell = Callable[[str, dict[str, str | int | float]], None]
"""Receives the name of an event and its values, as `common.journal.JsonLines.write` does."""


@dataclass(frozen=True)
class RestartPolicy:
    """When a process is started again.

    Parameters
    ----------
    first_delay_s, longest_delay_s : float
        Pause before a restart; it doubles with every death within the window.
    most_restarts : int
        Within ``window_s``; one more death ends the supervision.
    window_s : float
        Deaths older than this are forgotten.
    stop_s : float
        Between passing a stop signal on and ending the process.
    final_codes : frozenset of int
        Exit codes that no restart can mend, such as a file with faults.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    most_restarts: int = 20
    window_s: float = 600.0
    stop_s: float = 30.0
    final_codes: frozenset[int] = frozenset()

    def delay_s(self, deaths: int) -> float:
        """Pause after the given number of deaths within the window, 1 or more."""
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(deaths - 1, 60))


@dataclass(frozen=True)
class Ended:
    """How a supervision ended: exit code (128 + signal where one ended the process), why, and how many restarts."""

    code: int
    reason: Reason
    restarts: int


def supervise(command: Sequence[str], policy: RestartPolicy, tell: Tell) -> Ended:
    """Run a command, again and again, as the policy says; call it from the main thread.

    The command runs in a session of its own. SIGTERM, SIGINT and SIGHUP are passed on to all of its processes, and
    nothing of it is left when this function returns. The command itself also ends when this process is killed (Linux).

    Raises
    ------
    StateError
        If the command cannot be started at all.
    """
    return _Supervisor(command, policy, tell).run()


class _Supervisor:
    def __init__(self, command: Sequence[str], policy: RestartPolicy, tell: Tell) -> None:
        self._command = list(command)
        self._policy = policy
        self._tell = tell
        self._stop = threading.Event()
        self._group: int | None = None
        self._signalling = threading.RLock()  # the timer's thread must not signal a number that is given back
        self._stopped_by = 0
        self._deaths: deque[float] = deque()
        self._patience: threading.Timer | None = None

    def run(self) -> Ended:
        former = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            return self._run()
        finally:
            if self._patience is not None:
                self._patience.cancel()
            for number, handler in former.items():
                signal.signal(number, handler)

    def _run(self) -> Ended:
        restarts = 0
        while True:
            code = self._once(restarts)
            reason = self._reason(code)
            if reason is not None:
                return self._ended(code, reason, restarts)
            delay = self._policy.delay_s(len(self._deaths))
            self._tell("restarting", {"code": code, "deaths": len(self._deaths), "delay_s": delay})
            if self._stop.wait(delay):
                return self._ended(code, "stopped", restarts)
            restarts += 1

    def _ended(self, code: int, reason: Reason, restarts: int) -> Ended:
        stopped = {"signal": self._stopped_by} if reason == "stopped" else {}
        self._tell("supervision_ended", {"reason": reason, "code": code, "restarts": restarts, **stopped})
        return Ended(code, reason, restarts)

    def _once(self, restarts: int) -> int:
        """One life of the process; its exit code."""
        try:
            process = subprocess.Popen(self._command, start_new_session=True, preexec_fn=die_with_parent)  # noqa: S603 - what the operator typed
        except OSError as error:
            raise StateError(f"cannot start {self._command[0]}: {error.strerror or error}") from error
        self._group = process.pid
        self._tell("started", {"pid": process.pid, "restarts": restarts})
        if self._stop.is_set():  # the signal came before the group was known
            self._pass_on(signal.SIGTERM)
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is not given to others yet
        finally:
            self._pass_on(signal.SIGKILL)  # whatever the process left behind
            with self._signalling:
                self._group = None
            process.wait()
        code = process.returncode
        return code if code >= 0 else 128 - code

    def _reason(self, code: int) -> Reason | None:
        """Why the supervision is over; None where the process is started again."""
        if self._stop.is_set():
            return "stopped"
        if code == 0:
            return "done"
        if code in self._policy.final_codes:
            return "final"
        current = monotonic()
        self._deaths.append(current)
        while self._deaths[0] < current - self._policy.window_s:
            self._deaths.popleft()
        return "gave_up" if len(self._deaths) > self._policy.most_restarts else None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._stop.is_set():
            self._stopped_by = number
            self._stop.set()
            self._patience = threading.Timer(self._policy.stop_s, self._pass_on, (signal.SIGKILL,))
            self._patience.daemon = True
            self._patience.start()
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        with self._signalling:
            if self._group is not None:
                with suppress(ProcessLookupError, PermissionError):  # gone, or a zombie only
                    os.killpg(self._group, number)


def die_with_parent() -> None:
    """Run in the child before the command: a supervisor that is killed leaves nothing running (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
