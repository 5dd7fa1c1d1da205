"""Processes that stand for separate organisations on one machine, kept apart by the operating system where it can.

Each party has a folder of its own. Run as root, each becomes a user of its own; where such a user could not even start
the interpreter (it lies in root's home), the party keeps root's number but has no capability and a group of its own, so
that the kernel refuses it every other party's folder all the same. Run as an ordinary user, folders are separate and
private to that user, and `Separation.sentence` says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

FIRST_ID = 61_000
"""User and group numbers of the parties: above those that distributions hand out, below nobody's."""

PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
LAST_CAPABILITY = 63
STOP_S = 5.0
"""Seconds between asking a process to end and ending it."""

KERNEL_CACHE = ".numba"
"""Folder of a party that holds machine code of the radiomics kernels, where it cannot use the one beside the source."""

Kind = Literal["users", "groups", "folders"]


class Identity(TypedDict, total=False):
    """Whose process it is, as `subprocess.Popen` takes it."""

    user: int
    group: int
    extra_groups: list[int]
    preexec_fn: Callable[[], None]


@dataclass(frozen=True)
class Separation:
    """How parties are kept apart on this machine."""

    kind: Kind

    @property
    def sentence(self) -> str:
        return {
            "users": "each party runs as a user of its own",
            "groups": "each party runs without capabilities in a group of its own",
            "folders": "each party has a folder of its own, under the same user (run as root for separate users)",
        }[self.kind]

    @classmethod
    def here(cls) -> Separation:
        """The strictest separation that works on this machine."""
        if os.getuid() != 0:
            return cls("folders")
        try:
            subprocess.run(
                [sys.executable, "-c", "import common"],
                user=FIRST_ID,
                group=FIRST_ID,
                extra_groups=[],
                check=True,
                capture_output=True,
            )
        except (PermissionError, subprocess.CalledProcessError):
            return cls("groups")
        return cls("users")

    def readable_for(self, number: int, folders: Sequence[str]) -> list[str]:
        """Which of the folders party ``number`` can list: tried by a process that runs as it does."""
        probe = (
            "import os, sys\nfor f in sys.argv[1:]:\n    try: os.listdir(f); print(f)\n    except PermissionError: pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", probe, *folders], **self.identity(number), check=True, capture_output=True, text=True
        )
        return done.stdout.split()

    def identity(self, number: int) -> Identity:
        """Arguments of `subprocess.Popen` that make a process party ``number``."""
        own = FIRST_ID + number
        identity: Identity = {"preexec_fn": _before_start(drop_capabilities=self.kind == "groups")}
        if self.kind != "folders":
            identity |= {"group": own, "extra_groups": []}
        if self.kind == "users":
            identity["user"] = own
        return identity

    def own(self, folder: Path, number: int) -> None:
        """Make party ``number`` the only one that may enter ``folder``."""
        folder.chmod(0o770 if self.kind == "groups" else 0o700)
        if self.kind == "folders":
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, FIRST_ID + number, FIRST_ID + number, follow_symlinks=False)
            if self.kind == "groups" and path != folder:
                path.chmod(path.stat().st_mode | (path.stat().st_mode & 0o700) >> 3)


@dataclass
class Parties:
    """Running parties; none of them outlives this object or its process.

    Parameters
    ----------
    enter : mapping
        Party -> what stands before its command, such as ``ip netns exec NAME``.
    """

    separation: Separation
    enter: Mapping[str, Sequence[str]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, number: int, command: Sequence[str], *, folder: Path) -> None:
        """Start ``fedrad`` with arguments as party ``number``; its output goes to ``folder/output.log``."""
        environment = {
            **os.environ,
            "HOME": str(folder),
            "FLWR_HOME": str(folder / ".flwr"),
            "MPLCONFIGDIR": str(folder / ".matplotlib"),
            "OMP_NUM_THREADS": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        if (folder / KERNEL_CACHE).exists():
            environment["NUMBA_CACHE_DIR"] = str(folder / KERNEL_CACHE)
        with (folder / "output.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [*self.enter.get(name, ()), sys.executable, "-m", "simulations", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self.separation.identity(number),
            )

    def ended(self) -> dict[str, int]:
        """Name and exit code of every party that is no longer running."""
        codes = {name: process.poll() for name, process in self.running.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def stop(self) -> None:
        """Ask every party to end, and end those that do not."""
        alive = [process for process in self.running.values() if process.poll() is None]
        for process in alive:
            _signal(process, signal.SIGTERM)
        for process in alive:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()

    def __enter__(self) -> Parties:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _before_start(*, drop_capabilities: bool) -> Callable[[], None]:
    """Run in the child before the program: it ends with its parent and, where asked, can never hold a capability."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if drop_capabilities:
            for capability in range(LAST_CAPABILITY + 1):
                libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    return prepare


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
