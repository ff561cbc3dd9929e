"""A pool of processes or threads that reads many files, with a bounded number of open tasks."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self, TypeVar

from protoseg.errors import ProtosegError

T = TypeVar("T")
R = TypeVar("R")

OPEN_TASKS = 4
"""Tasks per worker that are queued at once: their results wait in memory."""


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


class WorkerPool:
    """Processes or threads; a context manager that ends them.

    Args:
        jobs: number of processes or threads.
        use_processes: processes start in about a second, threads at once. Decoders of images
            release the GIL, so that a few threads are as fast.
        module: imported by each process at once, while the caller prepares the tasks.
    """

    def __init__(self, jobs: int, *, use_processes: bool, module: str = __name__) -> None:
        self.jobs = jobs
        self._executor: Executor
        if not use_processes:
            self._executor = ThreadPoolExecutor(jobs)
            return
        # Not forked: a forked process would inherit the state of the progress display's threads.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(jobs, context, initialise_process, (os.getpid(),))
        for _ in range(jobs):  # each task without an idle process starts one
            self._executor.submit(importlib.import_module, module)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def map_tasks(self, call: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield ``call(task)`` for each task, in order.

        Args:
            call: a function that can be pickled, for processes.
            tasks: its arguments; at most `OPEN_TASKS` per worker are taken ahead.

        Raises:
            ProtosegError: a process was killed.
        """
        remaining = iter(tasks)
        submit = self._executor.submit
        try:
            first = itertools.islice(remaining, OPEN_TASKS * self.jobs)
            waiting: deque[Future[R]] = deque(submit(call, task) for task in first)
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(submit(call, task) for task in itertools.islice(remaining, 1))
                yield result
        except BrokenProcessPool as error:
            raise ProtosegError(
                "a process that reads files was killed, perhaps for lack of memory. Run the "
                "command again, with fewer --jobs."
            ) from error


def initialise_process(parent: int) -> None:
    """Let a worker process end with its parent, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent(parent)


def exit_with_parent(parent: int) -> None:
    """Start a thread that ends this process when its parent is gone, e.g. killed."""

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


def split_into_chunks(members: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` members in order; the last one may be shorter."""
    remaining = iter(members)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def has_many_files(root: Path, limit: int) -> bool:
    """Whether a folder has more than ``limit`` files; it is not read further than that."""
    number = 0
    for _, _, names in os.walk(root):
        number += len(names)
        if number > limit:
            return True
    return False
