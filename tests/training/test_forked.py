"""Forked processes behave like new ones: status, output, environment, signals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from forked import ForkServer, start_forked
from waiting import finish, wait_until

SLEEPS = "import time\nprint('ready', flush=True)\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("program", "status", "printed"),
    [
        ("print('done')", 0, "done\n"),
        ("raise SystemExit(75)", 75, ""),
        ("raise SystemExit('a sentence')", 1, "a sentence\n"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import atexit\natexit.register(print, 'at the end')", 0, "at the end\n"),
    ],
)
def test_exit_status_and_output(program: str, status: int, printed: str) -> None:
    process = start_forked(program, modules=())
    assert finish(process)[0] == printed
    assert process.returncode == status == process.poll()


def test_a_traceback_is_printed() -> None:
    process = start_forked("1 / 0", modules=())
    assert "ZeroDivisionError" in finish(process)[0]
    assert process.returncode == 1


def test_the_initial_state_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, environment, folder, process group, one thread, three descriptors."""
    monkeypatch.chdir(tmp_path)
    program = """
import os, sys
print(sys.argv[1:], os.environ["NAME"], "HOME" in os.environ, os.getcwd(), __name__)
print(os.getpgid(0) == os.getpid(), len(os.listdir("/proc/self/task")))
descriptors = set(os.listdir("/proc/self/fd"))
print(sorted(fd for fd in descriptors if os.path.exists(f"/proc/self/fd/{fd}")))
"""
    environment = {"NAME": "value", "PATH": os.environ["PATH"]}
    process = start_forked(
        program, ["a", "b c"], modules=(), environment=environment, process_group=0
    )
    lines = finish(process)[0].splitlines()
    assert lines == [
        f"['a', 'b c'] value False {tmp_path} __main__",
        "True 1",
        "['0', '1', '2']",
    ]


def test_each_process_draws_other_random_numbers() -> None:
    program = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    draws = [finish(start_forked(program, modules=["numpy"]))[0].split() for _ in range(2)]
    assert len({*draws[0], *draws[1]}) == 4
    assert random.random() not in draws[0]


def test_output_can_go_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text("before\n")
    process = start_forked("print('after')", modules=(), output=path)
    assert process.communicate() == (None, None)
    assert path.read_text() == "before\nafter\n"


def test_waiting_for_a_running_process_times_out(tmp_path: Path) -> None:
    process = start_forked(SLEEPS, modules=())
    assert process.poll() is None
    for wait in (process.wait, process.communicate):
        with pytest.raises(subprocess.TimeoutExpired):
            wait(timeout=0.01)
    process.kill()
    assert finish(process)[0] == "ready\n"
    assert process.returncode == -signal.SIGKILL
    process.kill()  # sends no signal: another process may have this process id now


def test_stopping_the_server_kills_its_processes() -> None:
    server = ForkServer()
    process = server.start(SLEEPS, modules=())
    server.stop()
    wait_until(lambda: not Path(f"/proc/{process.pid}").exists(), "the end of the process")
    assert finish(process)[0] in ("", "ready\n")
    assert process.returncode == -signal.SIGKILL


def test_an_import_that_starts_a_thread_is_refused(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    server = ForkServer()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            with pytest.raises(RuntimeError, match="2 threads after importing threaded"):
                server.start("", modules=["threaded"])
    finally:
        server.stop()
