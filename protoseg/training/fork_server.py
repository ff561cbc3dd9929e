"""``python -m protoseg.training.fork_server``: imports torch and mmseg once, then forks workers.

These imports take longer than the first 100 iterations of a small run. A sweep on one machine
starts this server once; each worker is a fork of it. On SLURM every worker is a new process.

The server reads one JSON object a line from standard input and answers on standard output:

    {"id": 1, "folder": RUN_FOLDER, "log": FILE, "environment": {...}}    a request
    {"state": "ready"}                                                    once, after the imports
    {"id": 1, "pid": 4711}                                                the worker was started
    {"id": 1, "exit": 0}                                                  exit status; -9: SIGKILL
    {"id": 1, "refused": "stale"}                                         source files have changed
    {"id": 1, "refused": "threads"}                                       forking would be unsafe

The server exits once standard input is closed and the last worker has exited. It runs no tensor
operation and starts no thread: thread pools and their locks do not work in a forked process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import select
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from protoseg.training.machine.network import set_offline_switches

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
POLL_SECONDS = 0.1
PACKAGE = Path(__file__).resolve().parents[1]


class ForkServer:
    """Starts workers on request and reports their exit statuses.

    Args:
        requests: file descriptor to read requests from.
        answers: file descriptor to write answers to.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self._requests = requests
        self._answers = answers
        self._workers: dict[int, BaseProcess] = {}
        self._partial = b""
        self._source = read_source_state()

    def serve(self) -> None:
        """Answer requests until the input is closed and all workers have exited."""
        self._answer({"state": "ready"})
        is_open = True
        while is_open or self._workers:
            readable = [self._requests] if is_open else []
            if select.select(readable, [], [], POLL_SECONDS)[0]:
                is_open = self._read_requests()
            self._report_exits()

    def _read_requests(self) -> bool:
        """Start the requested workers; returns False once the input is closed."""
        data = os.read(self._requests, 1 << 16)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            self._answer({"id": request["id"], **self._start_worker(request)})
        return bool(data)

    def _start_worker(self, request: dict[str, Any]) -> dict[str, Any]:
        if read_source_state() != self._source:
            return {"refused": "stale"}
        if len(os.listdir("/proc/self/task")) > 1:
            return {"refused": "threads"}
        worker = multiprocessing.get_context("fork").Process(
            target=run_worker,
            args=(request["folder"], request["log"], request["environment"]),
        )
        # Signals are blocked until the worker has installed its handlers, so that none is lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            worker.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._workers[request["id"]] = worker
        return {"pid": worker.pid}

    def _report_exits(self) -> None:
        for number, worker in list(self._workers.items()):
            if worker.exitcode is not None:
                del self._workers[number]
                self._answer({"id": number, "exit": worker.exitcode})

    def _answer(self, answer: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the sweep has ended; its workers finish
            os.write(self._answers, json.dumps(answer).encode() + b"\n")


def run_worker(folder: str, log: str, environment: dict[str, str]) -> None:
    """Run the worker of a run in a forked process, and exit with its status.

    Args:
        folder: the run folder.
        log: file for the output before the worker opens the log of its attempt.
        environment: variables to set.
    """
    from protoseg.training import worker
    from protoseg.training.signals import StopRequest

    stop = StopRequest()
    stop.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o664)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ.update(environment)
    sys.exit(worker.main([folder], stop))


def import_worker_modules() -> None:
    """Import all modules that a worker needs until its end."""
    set_offline_switches()
    for name in ("protoseg.training.run", "mmseg.datasets", "mmseg.engine", "mmseg.evaluation"):
        importlib.import_module(name)  # mmengine's registries import the last three
    importlib.import_module("torch._dynamo")  # imported by the first step of the optimiser


def read_source_state() -> tuple[Any, ...]:
    """Size and time of protoseg's source files, and the versions of the recorded packages.

    A worker must run the same code as the files that its record describes.
    """
    from protoseg.training.provenance.environment import PACKAGES

    files = []
    for path in sorted(PACKAGE.rglob("*.py")):
        status = path.stat()
        files.append((str(path), status.st_size, status.st_mtime_ns))
    versions = []
    for name in PACKAGES:
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            versions.append("")
    return (*files, *versions)


def main() -> int:
    """Import, then serve on standard input and output."""
    requests, answers = os.dup(0), os.dup(1)
    # The output of imports must not mix with answers, and workers must not read requests.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)
    import_worker_modules()
    gc.collect()
    gc.freeze()  # a collection in a worker would copy all pages of the imported modules
    ForkServer(requests, answers).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
