"""A pool of processes or threads that reads many files, with a bounded number of open tasks."""

from __future__ import annotations

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
from typing import Any, TypeVar

from protoseg.errors import ProtosegError

T = TypeVar("T")
R = TypeVar("R")

OPEN_TASKS = 4
"""Tasks per worker that are queued at once: their results wait in memory."""


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def map_tasks(
    call: Callable[[T], R], tasks: Iterable[T], jobs: int, *, use_processes: bool
) -> Iterator[R]:
    """Yield ``call(task)`` for each task, in order.

    Args:
        call: a function that can be pickled, if ``use_processes``.
        tasks: their arguments; at most `OPEN_TASKS` per worker are taken ahead.
        jobs: number of processes or threads.
        use_processes: processes start in about a second, threads at once. Decoders of images
            release the GIL, so that a few threads are as fast.

    Raises:
        ProtosegError: a process was killed.
    """
    remaining = iter(tasks)
    pool = _open_pool(jobs, use_processes)
    try:
        first = itertools.islice(remaining, OPEN_TASKS * jobs)
        waiting: deque[Future[R]] = deque(pool.submit(call, task) for task in first)
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(call, task) for task in itertools.islice(remaining, 1))
            yield result
    except BrokenProcessPool as error:
        raise ProtosegError(
            "a process that reads files was killed, perhaps for lack of memory. Run the command "
            "again, with fewer --jobs."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _open_pool(jobs: int, use_processes: bool) -> Executor:
    if not use_processes:
        return ThreadPoolExecutor(jobs)
    # Not forked: a forked process would inherit the state of the progress display's threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initialise_process, (os.getpid(),))


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
