"""Run ``python -c PROGRAM`` in forks of the `fork_server`, for tests that need other processes."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from fork_server import MESSAGE_BYTES
from waiting import DEADLINE, finish

SERVER = Path(__file__).with_name("fork_server.py")
TORCH = ("torch", "torch.distributed")
"""Modules that the processes of tests/core import."""


class ForkedProcess:
    """A forked process with the part of the interface of `subprocess.Popen` that tests use.

    Args:
        process: descriptor of the process (pidfd).
        status: pipe from which its exit status is read.
        stdout: its output; None if the output goes to a file.
    """

    def __init__(
        self, args: Sequence[str], pid: int, process: int, status: int, stdout: IO[str] | None
    ) -> None:
        self.args, self.pid, self.stdout = args, pid, stdout
        self.returncode: int | None = None
        self._process, self._status = process, status
        self._printed = bytearray()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: the process still runs.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            text = os.read(self._status, 100).decode()
            self._close()
            if not text:
                raise RuntimeError("the fork server has ended")
            self.returncode = int(text)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, None]:
        """Wait for the process and return its whole output.

        Raises:
            subprocess.TimeoutExpired: the process still runs, or another process has its output
                open. The next call also returns the output so far.
        """
        end = time.monotonic() + timeout if timeout is not None else None

        def get_remaining() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        while self.stdout is not None and not self.stdout.closed:
            if not select.select([self.stdout], [], [], get_remaining())[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            data = os.read(self.stdout.fileno(), 1 << 16)
            self._printed += data
            if not data:
                self.stdout.close()
        self.wait(get_remaining())
        return (self._printed.decode(errors="replace") if self.stdout else None), None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _close(self) -> None:
        os.close(self._status)
        os.close(self._process)


class ForkServer:
    """The fork server of this test session; started at its first use."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._has_forked = False

    def prepare(self, modules: Sequence[str]) -> None:
        """Start the server and let it import modules while tests run."""
        if self._control is None:
            self._connect().send(json.dumps({"modules": list(modules)}).encode())

    def start(
        self,
        program: str,
        arguments: Sequence[str] = (),
        *,
        modules: Sequence[str],
        environment: Mapping[str, str] | None = None,
        process_group: int | None = None,
        new_session: bool = False,
        output: Path | None = None,
    ) -> ForkedProcess:
        """Run ``python -c PROGRAM ARGUMENTS`` in a fork.

        Args:
            modules: modules to import before the fork, in addition to those of earlier requests.
            environment: by default that of this process.
            process_group: as for `subprocess.Popen`.
            output: a file to append standard output and error to, instead of `stdout`.
        """
        control = self._connect()
        request = {
            "program": program,
            "arguments": list(arguments),
            "modules": list(modules),
            "environment": dict(os.environ if environment is None else environment),
            "folder": os.getcwd(),
            "process_group": process_group,
            "new_session": new_session,
        }
        stdout: IO[str] | None = None
        if output is None:
            read_end, write_end = os.pipe()
            stdout = os.fdopen(read_end, encoding="utf-8", errors="replace")
        else:
            write_end = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        status, status_end = os.pipe()
        try:
            message = json.dumps(request).encode()
            socket.send_fds(control, [message], [write_end, status_end])
        finally:
            os.close(write_end)
            os.close(status_end)
        try:
            answer, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
        except TimeoutError:
            raise AssertionError(f"waited {DEADLINE:.0f} s for the fork server") from None
        reply: dict[str, Any] = json.loads(answer or b"{}")
        if "pid" not in reply:
            os.close(status)
            if stdout is not None:
                stdout.close()
            status_of_server = self._server.poll() if self._server is not None else None
            raise RuntimeError(
                f"no fork: {reply.get('error', '')}; the fork server's exit status is "
                f"{status_of_server}{self._printed()}"
            )
        self._has_forked = True
        return ForkedProcess(
            [sys.executable, "-c", program, *arguments], reply["pid"], *descriptors, status, stdout
        )

    def _connect(self) -> socket.socket:
        if self._server is not None and self._server.poll() is not None:
            self.stop()  # the server was killed: start another one
        if self._control is None:
            self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
            self._control.settimeout(DEADLINE)
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
            environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
            environment |= {"OMP_NUM_THREADS": "1", "FORK_SERVER_PATH": json.dumps(sys.path)}
            with other:
                self._server = subprocess.Popen(
                    [sys.executable, str(SERVER), str(other.fileno())],
                    env=environment,
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                )
            atexit.register(self.stop)
        return self._control

    def _printed(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return "\nThe fork server printed:\n" + self._log.read().decode(errors="replace")

    def stop(self) -> None:
        """End the server, which kills its running processes."""
        if self._control is not None and self._server is not None and self._log is not None:
            atexit.unregister(self.stop)
            self._control.close()
            if not self._has_forked:  # the server may still import modules
                self._server.kill()
            self._server.wait(DEADLINE)
            self._log.close()
            self._control = self._server = self._log = None
            self._has_forked = False


SERVER_OF_SESSION = ForkServer()


def start_forked(program: str, arguments: Sequence[str] = (), **options: Any) -> ForkedProcess:
    """Start a process with the server of this session; see `ForkServer.start`."""
    return SERVER_OF_SESSION.start(program, arguments, **options)


def run_in_processes(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call ``function(rank, *arguments)`` in several processes at the same time.

    Args:
        function: a function of a module that does not import pytest.
        arguments: JSON values.

    Raises:
        AssertionError: a process failed, or the deadline passed.
    """
    module = function.__module__
    program = (
        "import json, sys\n"
        f"from {module} import {function.__name__} as function\n"
        "function(*json.loads(sys.argv[1]))"
    )
    # gloo then needs no lookup of the host name, which can fail or take long.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        start_forked(
            program,
            [json.dumps([rank, *arguments])],
            modules=(*TORCH, module),
            environment=environment,
        )
        for rank in range(count)
    ]
    try:
        printed = [finish(process)[0] for process in processes]  # type: ignore[arg-type]
    finally:
        for process in processes:
            process.kill()
    statuses = [process.returncode for process in processes]
    assert statuses == [0] * count, "\n".join(printed)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """The server of this session, stopped at its end."""
    yield SERVER_OF_SESSION
    SERVER_OF_SESSION.stop()
