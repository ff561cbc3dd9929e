"""A process that imports torch and mmseg once, and forks itself for each program to run.

A new Python process needs several seconds of CPU time for these imports. The server runs no tensor
operation and has one thread, so that a fork has the same state as a new process. Only `forked`
starts it: ``python fork_server.py SOCKET_DESCRIPTOR``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

MESSAGE_BYTES = 1 << 20
"""Upper limit for a program with its arguments and environment."""


def serve(control: socket.socket) -> None:
    """Fork a process for each request until the other end closes the socket.

    A request is JSON together with two descriptors: the output, and a pipe for the exit status. The
    answer is the process id with a descriptor of the process, or an error. A request without a
    program only names modules to import; it has no answer.
    """
    running: dict[int, tuple[int, int]] = {}  # process descriptor -> process id, status pipe
    try:
        while True:
            ready, _, _ = select.select([control, *running], [], [])
            for descriptor in set(ready) & set(running):
                reap(descriptor, *running.pop(descriptor))
            if control not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not message:
                return
            try:
                request = json.loads(message)
                import_modules(request["modules"])
                if "program" not in request:
                    continue
                pid, process = fork(
                    request, descriptors, [control.fileno(), *list_descriptors(running)]
                )
            except Exception:
                if not descriptors:
                    raise
                for descriptor in descriptors:
                    os.close(descriptor)
                control.send(json.dumps({"error": traceback.format_exc()}).encode())
                continue
            output, status = descriptors
            os.close(output)
            running[process] = pid, status
            socket.send_fds(control, [json.dumps({"pid": pid}).encode()], [process])
    finally:
        for descriptor, (pid, status) in running.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            reap(descriptor, pid, status)


def list_descriptors(running: dict[int, tuple[int, int]]) -> list[int]:
    """The descriptors of the server's processes."""
    return [*running, *(status for _, status in running.values())]


def reap(descriptor: int, pid: int, status: int) -> None:
    """Write the exit status of an ended process to the pipe of its request."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(status, str(code).encode())
    os.close(status)
    os.close(descriptor)


def import_modules(names: list[str]) -> None:
    """Import modules before the fork.

    Raises:
        RuntimeError: an import started a thread, which a fork lacks.
    """
    new = [name for name in names if name not in sys.modules]
    for name in new:
        importlib.import_module(name)
    if new:
        gc.collect()
        gc.freeze()  # a collection in a fork would copy all pages of the imported modules
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        raise RuntimeError(f"{len(threads)} threads after importing {', '.join(names)}; expected 1")


def fork(request: dict[str, Any], descriptors: list[int], close: list[int]) -> tuple[int, int]:
    """Fork a process that runs a program.

    Args:
        descriptors: the output, and the status pipe, which the process closes.
        close: descriptors of the server that the process closes.

    Returns:
        The process id and a descriptor of the process, once its group and output are set.
    """
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            output, status = descriptors
            for descriptor in (ready, status, *close):
                os.close(descriptor)
            set_up(request, output)
            os.close(is_ready)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
        run_program(request["program"])
    os.close(is_ready)
    os.read(ready, 1)
    os.close(ready)
    return pid, os.pidfd_open(pid)


def set_up(request: dict[str, Any], output: int) -> None:
    """Give this process the output, group, environment, folder and seeds of a new one."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if request["new_session"]:
        os.setsid()
    if request["process_group"] is not None:
        os.setpgid(0, request["process_group"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["-c", *request["arguments"]]
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def run_program(program: str) -> NoReturn:
    """Run a program as ``python -c`` does, and end this process with its exit status."""
    server, main = sys.modules["__main__"], types.ModuleType("__main__")
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(program, "<string>", "exec"), vars(main))
    except SystemExit as error:
        if isinstance(error.code, int):
            status = error.code
        elif error.code is not None:
            print(error.code, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.modules["__main__"] = server
    end_process(status & 0xFF)


def end_process(status: int) -> NoReturn:
    """Run the steps of an interpreter's exit, without the teardown of torch."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.path[:] = json.loads(os.environ.pop("FORK_SERVER_PATH"))
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
    end_process(0)
