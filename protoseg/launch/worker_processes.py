"""The worker processes of a local sweep, forked by a server that has imported torch once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from protoseg.runs.claim import process_start

SERVER = "protoseg.training.fork_server"
WORKER = "protoseg.training.worker"


class WorkerProcess:
    """One worker process: requested, running, or exited.

    Args:
        folder: the run folder.
        log: file for the worker's output before it opens the log of its attempt.
        environment: variables of this worker, in addition to those of the sweep.
    """

    def __init__(self, folder: Path, log: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.log = log
        self.environment = environment
        self.pid: int | None = None
        """None until the process exists."""
        self.has_exited = False
        self.fresh_process: subprocess.Popen[bytes] | None = None
        """The process, if it was not forked."""

    def send_signal(self, number: int) -> None:
        """Send a signal; no effect before the process exists and after it has exited."""
        if self.pid is not None and not self.has_exited:
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)


class ForkServerClient:
    """The connection to one fork server; see `protoseg.training.fork_server`.

    Args:
        log: file for the output of the server.
        environment: all variables of the server and its workers.
    """

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.is_ready = False
        """Whether the server has finished its imports."""
        self.workers: dict[int, WorkerProcess] = {}
        """The requested workers that have not exited."""
        self._start_times: dict[int, str | None] = {}
        self._count = 0
        self._partial = b""
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", SERVER],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,  # Ctrl-C of the terminal reaches only the sweep
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        os.set_blocking(self._answers.fileno(), False)

    def request(self, worker: WorkerProcess) -> None:
        """Request a worker; `update` sets its process id when it runs."""
        self._count += 1
        self.workers[self._count] = worker
        content = {
            "id": self._count,
            "folder": str(worker.folder),
            "log": str(worker.log),
            "environment": worker.environment,
        }
        with contextlib.suppress(BrokenPipeError):  # `update` notices that the server has died
            self._requests.write(json.dumps(content).encode() + b"\n")
            self._requests.flush()

    def update(self) -> list[tuple[WorkerProcess, str]]:
        """Read the server's answers, and return (worker, reason) of those that it refused."""
        has_died = self.process.poll() is not None
        refused = []
        while data := self._answers.read():
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "refused" in answer:
                    refused.append((self.workers.pop(answer["id"]), answer["refused"]))
                else:
                    self._apply(answer)
        if has_died:
            self._find_exits()
        return refused

    def retire(self) -> None:
        """Send no more requests: the server exits when its last worker has exited."""
        with contextlib.suppress(OSError):
            self._requests.close()

    def close(self) -> None:
        """Retire the server and read no more answers; running workers continue."""
        self.retire()
        self._answers.close()
        if self.workers:
            self.process.poll()
        else:
            self.process.wait()

    def _apply(self, answer: dict[str, Any]) -> None:
        if "state" in answer:
            self.is_ready = True
        elif "pid" in answer:
            number, pid = answer["id"], answer["pid"]
            self.workers[number].pid = pid
            self._start_times[number] = process_start(pid)
        else:
            self.workers.pop(answer["id"]).has_exited = True

    def _find_exits(self) -> None:
        """Find exited workers of a dead server: a worker has exited if its process is gone."""
        for number, worker in list(self.workers.items()):
            if worker.pid is None:
                worker.log = self.log
            elif process_start(worker.pid) == self._start_times[number]:
                continue
            worker.has_exited = True
            del self.workers[number]


class WorkerProcesses:
    """All worker processes of a local sweep.

    Args:
        folder: folder for the logs of the servers.
        threads: threads of torch in each worker, set before torch is imported; 0 is torch's
            default.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self._environment = dict(os.environ)
        if threads:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
            self._environment |= dict.fromkeys(names, str(threads))
        self._servers: list[ForkServerClient] = []
        """The last server gets the requests; the others wait for their workers."""
        self._fresh: list[WorkerProcess] = []

    @property
    def is_importing(self) -> bool:
        """Whether workers wait for a server to finish its imports."""
        return bool(self._servers) and not self._servers[-1].is_ready

    def start(self, folder: Path, log: Path, environment: dict[str, str]) -> WorkerProcess:
        """Start a worker on a run folder; the arguments are those of `WorkerProcess`."""
        worker = WorkerProcess(folder, log, environment)
        if not self._servers or self._servers[-1].process.poll() is not None:
            self._start_server()
        self._servers[-1].request(worker)
        return worker

    def update(self) -> None:
        """Update which workers have started and which have exited."""
        for server in list(self._servers):
            for worker, reason in server.update():
                if reason == "stale":
                    self._replace_server(server)
                    self._servers[-1].request(worker)
                else:
                    self._start_fresh(worker)
        for worker in self._fresh:
            assert worker.fresh_process is not None
            worker.has_exited = worker.fresh_process.poll() is not None

    def cancel_imports(self) -> None:
        """Kill a server that still imports; its workers count as exited."""
        for server in self._servers:
            if not server.is_ready:
                server.process.kill()

    def close(self) -> None:
        """Let the servers exit."""
        for server in self._servers:
            server.close()

    def _start_server(self) -> None:
        # Otherwise numpy's OpenBLAS starts threads during the import.
        environment = {**self._environment, "OPENBLAS_NUM_THREADS": "1"}
        log = self.folder / f"server{len(self._servers)}.txt"
        self._servers.append(ForkServerClient(log, environment))

    def _replace_server(self, server: ForkServerClient) -> None:
        """Start a server that imports the source files as they are now."""
        if server is self._servers[-1]:
            server.retire()
            self._start_server()

    def _start_fresh(self, worker: WorkerProcess) -> None:
        """Start a worker that cannot be forked as a process with its own imports."""
        with open(worker.log, "ab") as log:
            worker.fresh_process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(worker.folder)],
                env={**self._environment, **worker.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker.pid = worker.fresh_process.pid
        self._fresh.append(worker)
