"""The work list of a site: every row of the manifest ends as a prepared case or a fault; none is lost on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from threading import Lock, Thread
from time import monotonic, sleep

from client.case_cache import CaseCache
from client.ingest.manifest import CaseRow, Manifest
from client.preparation import PreparedCase
from common.errors import CaseError, Code


class Worklist:
    """The rows of a manifest on their way.

    Parameters
    ----------
    processes : int
        Cases prepared at the same time; 1 works in a thread of this process.
    note : callable
        Told each fault, for the site's own log.
    """

    def __init__(
        self, manifest: Manifest, cache: CaseCache, *, processes: int, note: Callable[[CaseError], None]
    ) -> None:
        self.pending = list(manifest.rows)
        self.done: dict[str, tuple[CaseRow, PreparedCase]] = {}
        self.faults: list[CaseError] = []
        self._cache = cache
        self._processes = processes
        self._note = note
        self._pool: Executor | None = None
        self._advancing = Lock()
        for fault in manifest.faults:
            self._refuse(fault)

    @property
    def n_listed(self) -> int:
        """Rows of the manifest: ``len(pending) + len(done) + len(faults)``."""
        return len(self.pending) + len(self.done) + len(self.faults)

    def advance(self, budget_s: float) -> None:
        """Prepare pending cases for about ``budget_s`` seconds; at least one case, so that work always ends."""
        with self._advancing:  # the pooled reference of a simulation opens a hospital that is still preparing
            end = monotonic() + budget_s
            try:
                self._advance(end)
            except BrokenProcessPool:
                # a process died without a word, as one that ran out of memory does: find the case, one at a time
                self.close()
                self._one_by_one(end)
            if not self.pending:
                self.close()

    def close(self) -> None:
        """End the processes; `advance` starts them again where it needs them."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _advance(self, end: float) -> None:
        pool = self._started()
        waiting = list(self.pending)
        running: dict[Future[PreparedCase], CaseRow] = {}
        started = False
        while running or (waiting and not (started and monotonic() >= end)):
            # one in hand for each process, so that none waits for this one
            while waiting and len(running) < 2 * self._processes and not (started and monotonic() >= end):
                row = waiting.pop(0)
                running[pool.submit(self._cache.get, row)] = row
                started = True
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                self._take(running.pop(future), future)

    def _one_by_one(self, end: float) -> None:
        for row in tuple(self.pending):
            with _processes(1) as alone:
                future = alone.submit(self._cache.get, row)
                try:
                    self._take(row, future)
                except BrokenProcessPool:
                    self.pending.remove(row)
                    reason = "the process that prepared the case died; it may have run out of memory"
                    self._refuse(CaseError(row.case_id, reason, code=Code.INTERNAL))
                    return
            if monotonic() >= end:
                return

    def _take(self, row: CaseRow, future: Future[PreparedCase]) -> None:
        """Enter what became of a row; an error that is no fault of the case leaves it pending."""
        try:
            self.done[row.case_id] = (row, future.result())
        except CaseError as fault:
            self._refuse(fault)
        self.pending.remove(row)

    def _started(self) -> Executor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1) if self._processes == 1 else _processes(self._processes)
        return self._pool

    def _refuse(self, fault: CaseError) -> None:
        self.faults.append(fault)
        self._note(fault)


def _processes(n: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(n, initializer=_serve, initargs=(os.getpid(),))


def _serve(parent: int) -> None:
    """In a new process: leave Ctrl-C to the parent, and end where the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            sleep(0.5)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
