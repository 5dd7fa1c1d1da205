"""``fedrad coordinator submit``: a study is submitted to a SuperLink, and followed until its run has ended.

Nobody but the operator starts a run again that ended badly, because its ServerApp or its SuperLink died. Under
`common.supervision` this command is that operator:

    law: while a submission lives, at most one run of it is under way; started again, it follows the run that it left,
         and submits anew only where that run has ended without the study being complete.

It knows Flower as a person does: by the ``flwr`` command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from common.errors import FederationError
from common.files import write_atomic

COMPLETED, STOPPED, FINISHED = "finished:completed", "finished:stopped", "finished"
CALL_S = 120.0
"""How long one ``flwr`` command may take."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Submission:
    """A study on its way through a SuperLink.

    Parameters
    ----------
    app : Path
        fedrad's source folder, which holds the pyproject.toml with the apps.
    connection : str
        Of the SuperLink, in ``$FLWR_HOME/config.toml``.
    study, out : Path
        Study file and run folder, on the SuperLink's machine.
    every_s : float
        Pause between two questions how the run stands; each costs a process.
    gone_s : float
        How long the SuperLink may not answer while a run is followed.
    """

    app: Path
    connection: str
    study: Path
    out: Path
    every_s: float = 15.0
    gone_s: float = 600.0

    @property
    def memory(self) -> Path:
        """Where the number of the run under way is kept: beside ``out``, which must be empty before the first run."""
        return self.out.parent / f".{self.out.name}.submitted"

    def run(self, tell: Tell) -> None:
        """Submit, or go on with following, and return when the study is complete, or a person stopped it.

        Raises
        ------
        FederationError
            If the run ended otherwise, or the SuperLink does not answer. The same call goes on.
        """
        number = self._under_way() or self._submit(tell)
        status = self._followed(number, tell)
        self.memory.unlink(missing_ok=True)
        if status == STOPPED:
            tell(f"run {number} was stopped by a person; the same command goes on")
        elif status != COMPLETED:
            raise FederationError(f"run {number} ended as {status}, see flwr log {number}; the same command goes on")

    def _under_way(self) -> str:
        with suppress(FileNotFoundError):
            return self.memory.read_text(encoding="ascii").strip()
        return ""

    def _submit(self, tell: Tell) -> str:
        config = f'study="{self.study.resolve()}" out="{self.out.resolve()}"'
        answer = self._flwr("run", str(self.app), self.connection, "--run-config", config)
        number = str(answer["run-id"])
        self.memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.memory, number.encode("ascii"))
        tell(f"run {number} submitted")
        return number

    def _followed(self, number: str, tell: Tell) -> str:
        """The status with which the run ended."""
        told, heard = "", monotonic()
        while True:
            try:
                status = self._status(number)
            except FederationError:  # the SuperLink is being started again
                if monotonic() - heard > self.gone_s:
                    raise
                status = "SuperLink not answering"
            else:
                heard = monotonic()
            if status.startswith(FINISHED):
                return status
            if status != told:
                tell(f"run {number}: {status}")
                told = status
            sleep(self.every_s)

    def _status(self, number: str) -> str:
        runs = self._flwr("list", self.connection)["runs"]
        for run in runs:
            if run["run-id"] == number:
                return str(run["status"])
        return f"{FINISHED}:forgotten"  # a SuperLink without a database

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        """What a ``flwr`` command answers.

        Raises
        ------
        FederationError
            If it fails, or answers something else.
        """
        command = [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"]
        try:
            done = subprocess.run(  # noqa: S603 - Flower's own program, from this installation
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=CALL_S, check=False
            )
            answer = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise FederationError(f"flwr {arguments[0]}: no answer that can be read") from error
        if done.returncode != 0 or not answer.get("success"):
            raise FederationError(f"flwr {arguments[0]}: {answer.get('error-message', f'code {done.returncode}')}")
        return dict(answer)
