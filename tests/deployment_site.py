"""A site process for tests and benchmarks: answers deterministically, over the real node.

``python -m tests.deployment_site ADDRESS FOLDER SITE [seconds=S] [kill_at=N] [size=BYTES]``
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from client.node import NodeConnection, serve
from common.arrays import Parameters
from common.errors import CaseError, Code
from common.messages import (
    AskStatistic,
    Done,
    Finish,
    Hello,
    LocalUpdate,
    Refusal,
    Reply,
    Request,
    StatisticSums,
    Train,
    Welcome,
)


def doubled(request: Train, site: str) -> LocalUpdate:
    """A delta that differs from site to site, so that equal objects do not hide traffic."""
    delta = {name: array * 2 + len(site) for name, array in request.parameters.items()}
    return LocalUpdate(request.model, request.round_number, len(site), Parameters(delta), 0.5)


class TestSite:
    """Answers; ``behaviour`` names what goes wrong."""

    def __init__(self, site: str, behaviour: dict[str, str], folder: Path) -> None:
        self.site, self.behaviour, self.folder = site, behaviour, folder
        self.count = 0

    def answer(self, request: Request) -> Reply:
        self.count += 1
        with (self.folder / "answered.txt").open("a") as log:
            log.write(f"{type(request).__name__} {os.getpid()}\n")
        if self._once("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(request, Train):
            time.sleep(float(self.behaviour.get("seconds", 0)))
            if "hold" in self.behaviour:
                ctypes.PyDLL(None).sleep(int(self.behaviour["hold"]))  # keeps the interpreter's lock
            return doubled(request, self.site)
        if isinstance(request, AskStatistic):
            if request.kind == "case":
                raise CaseError("patient-0815", "/secret/path", code=Code.ROI_EMPTY)
            if request.kind == "crash":
                raise RuntimeError("patient-0815 in /secret/path")
            return StatisticSums(3, {"sum": np.arange(5.0) + len(self.site)})
        if isinstance(request, Hello):
            return Welcome(self.site, {"pid": str(os.getpid())})
        return Done() if isinstance(request, Finish) else Refusal(Code.INTERNAL)

    def _once(self, key: str) -> bool:
        marker = self.folder / f"{key}.done"
        if self.behaviour.get(key) != str(self.count) or marker.exists():
            return False
        marker.touch()
        return True


def main(address: str, folder: str, site: str, *behaviour: str) -> None:
    home = Path(folder)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    known = TestSite(site, dict(item.split("=", 1) for item in behaviour), home)
    connection = NodeConnection(address, home / "ca.pem", home / "node.key", home / "node.pem")
    serve(connection, known.answer, stop=stop, on_event=lambda text: print(f"{site}: {text}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
