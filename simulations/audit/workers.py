"""Independent pieces of an audit in processes of their own; each process is sent the subject once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from simulations.audit.subject import Subject

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_workers(
    subject: Subject, work: Callable[[Subject, Task], Result], tasks: Sequence[Task], *, processes: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, as they finish; ``work`` is a function of a module.

    With one process, or one task, everything runs here and in order.
    """
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, work(subject, task)
        return
    context = multiprocessing.get_context("spawn")
    workers = min(processes, len(tasks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_keep, initargs=(subject,)) as pool:
        started = {pool.submit(_on_kept, work, task): task for task in tasks}
        for future in as_completed(started):
            yield started[future], future.result()


_kept: list[Subject] = []
"""The subject of a worker process."""


def _keep(subject: Subject) -> None:
    _kept.append(subject)


def _on_kept(work: Callable[[Subject, Task], Result], task: Task) -> Result:
    return work(_kept[0], task)
