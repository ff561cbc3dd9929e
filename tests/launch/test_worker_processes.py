"""Tests of forked workers: their environment, their ends, and a server that dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training.small import make_folder, result, small_spec, work
from waiting import wait_until

from protoseg.datasets.layout import find_root
from protoseg.launch.worker_processes import WorkerProcess, WorkerProcesses
from protoseg.runs.claim import process_start
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State

SPEC = ("method=released", "method.num_prototypes=3", "method.momentum=0.9")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the small built-in data set."""
    folder = tmp_path_factory.mktemp("data")
    find_root(small_spec().dataset, folder)
    return folder


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[WorkerProcesses]:
    """Worker processes with a server for one test."""
    processes = WorkerProcesses(tmp_path, threads=1)
    yield processes
    processes.cancel_imports()
    processes.close()


@pytest.fixture(scope="module")
def shared_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcesses]:
    """Worker processes with one server for all tests that do not stop it."""
    processes = WorkerProcesses(tmp_path_factory.mktemp("server"), threads=1)
    yield processes
    processes.cancel_imports()
    processes.close()


def endless_run(folder: Path, data: Path, *overrides: str) -> RunFolder:
    """Make a run that trains until it is stopped."""
    return make_folder(folder, small_spec("schedule.iterations=100000", *overrides), data)


def start(processes: WorkerProcesses, folder: RunFolder, log: Path) -> WorkerProcess:
    return processes.start(folder.path, log, {"PROTOSEG_TEST_VALUE": "set"})


def wait_for_pid(processes: WorkerProcesses, worker: WorkerProcess) -> int:
    def pid() -> int | None:
        processes.update()
        return worker.pid

    process_id = wait_until(pid, "the worker to be forked", logs=[worker.log])
    assert process_id is not None
    return process_id


def wait_for_exit(processes: WorkerProcesses, worker: WorkerProcess) -> None:
    def has_exited() -> bool:
        processes.update()
        return worker.has_exited

    wait_until(has_exited, "the worker to exit", logs=[worker.log])


def server_pid(worker_pid: int) -> int:
    return int(Path(f"/proc/{worker_pid}/stat").read_text().rpartition(")")[2].split()[1])


def interrupt_training(folder: RunFolder, pid: int) -> None:
    wait_until(lambda: folder.progress.exists(), "the first iteration", logs=[log_of(folder)])
    os.kill(pid, signal.SIGTERM)


def log_of(folder: RunFolder) -> Path:
    return folder.newest_log() or folder.path / "no log yet"


@pytest.mark.slow
def test_a_forked_worker_is_bit_identical_to_a_fresh_process(
    data: Path, tmp_path: Path, processes: WorkerProcesses
) -> None:
    spec = small_spec(*SPEC)
    fresh = make_folder(tmp_path / "fresh", spec, data)
    status, output = work(fresh)
    assert status == 0, output
    forked = [make_folder(tmp_path / name, spec, data) for name in ("first", "second")]
    workers = [start(processes, folder, tmp_path / f"{folder.path.parent.name}.txt")
               for folder in forked]  # fmt: skip
    for worker in workers:
        wait_for_exit(processes, worker)
    states = {
        folder.status().record["provenance"]["state_sha256"]  # type: ignore[index]
        for folder in (fresh, *forked)
    }
    assert len(states) == 1
    assert result(forked[0]) == result(forked[1]) == result(fresh)


def test_the_fork_server_has_one_thread_and_no_terminal(
    data: Path, tmp_path: Path, shared_processes: WorkerProcesses
) -> None:
    folder = endless_run(tmp_path, data)
    worker = start(shared_processes, folder, tmp_path / "worker.txt")
    pid = wait_for_pid(shared_processes, worker)
    assert not shared_processes.is_importing
    server = server_pid(pid)
    assert len(os.listdir(f"/proc/{server}/task")) == 1
    assert os.getsid(server) != os.getsid(0), "Ctrl-C of the terminal must not reach it"
    interrupt_training(folder, pid)
    wait_for_exit(shared_processes, worker)
    assert folder.status().state is State.INTERRUPTED
    assert folder.checkpoint_iteration() >= 1


def test_a_killed_worker_counts_as_exited(
    data: Path, tmp_path: Path, shared_processes: WorkerProcesses
) -> None:
    folder = endless_run(tmp_path, data)
    worker = start(shared_processes, folder, tmp_path / "worker.txt")
    os.kill(wait_for_pid(shared_processes, worker), signal.SIGKILL)
    wait_for_exit(shared_processes, worker)


@pytest.mark.slow
def test_a_closed_server_exits_after_its_worker(
    data: Path, tmp_path: Path, processes: WorkerProcesses
) -> None:
    folder = make_folder(tmp_path, small_spec(), data)
    worker = start(processes, folder, tmp_path / "worker.txt")
    assert processes.is_importing
    server = server_pid(wait_for_pid(processes, worker))
    processes.close()  # while the worker still trains
    wait_until(lambda: process_start(server) is None, "the server to exit", logs=[worker.log])
    assert folder.status().state is State.DONE


@pytest.mark.slow
def test_a_worker_outlives_its_server(
    data: Path, tmp_path: Path, processes: WorkerProcesses
) -> None:
    folder = endless_run(tmp_path, data)
    worker = start(processes, folder, tmp_path / "worker.txt")
    pid = wait_for_pid(processes, worker)
    os.kill(server_pid(pid), signal.SIGKILL)
    wait_until(lambda: folder.progress.exists(), "the first iteration", logs=[worker.log])
    processes.update()
    assert not worker.has_exited
    worker.send_signal(signal.SIGTERM)
    wait_for_exit(processes, worker)
    assert folder.status().state is State.INTERRUPTED


@pytest.mark.slow
def test_a_failed_import_of_the_server_counts_as_exit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, small_spec(), data)
    broken = tmp_path / "broken" / "mmseg"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this mmseg is broken')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    processes = WorkerProcesses(broken.parent, threads=1)
    worker = start(processes, folder, tmp_path / "worker.txt")
    wait_for_exit(processes, worker)
    processes.close()
    assert worker.pid is None
    assert worker.log.read_text().splitlines()[-1] == "ImportError: this mmseg is broken"


def test_cancel_imports_ends_waiting_workers(
    data: Path, tmp_path: Path, processes: WorkerProcesses
) -> None:
    folder = make_folder(tmp_path, small_spec(), data)
    worker = start(processes, folder, tmp_path / "worker.txt")
    processes.cancel_imports()
    wait_for_exit(processes, worker)
    assert worker.pid is None
    assert folder.attempts() == []


@pytest.mark.slow
def test_a_new_server_imports_changed_source_files(
    data: Path, tmp_path: Path, processes: WorkerProcesses
) -> None:
    """A record has the digest of the source files at its start, so older code must not train."""
    import protoseg

    folder = endless_run(tmp_path, data)
    first = start(processes, folder, tmp_path / "first.txt")
    server = server_pid(wait_for_pid(processes, first))
    source = Path(protoseg.__file__)
    before = source.stat()
    os.utime(source, ns=(before.st_atime_ns, time.time_ns()))
    try:
        other = endless_run(tmp_path, data, "seed=1")
        second = start(processes, other, tmp_path / "second.txt")
        other_server = server_pid(wait_for_pid(processes, second))
        assert other_server != server
    finally:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    for worker in (first, second):
        worker.send_signal(signal.SIGTERM)
        wait_for_exit(processes, worker)
    processes.update()
    wait_until(lambda: process_start(server) is None, "the old server to exit")

    # A server without workers exits at once.
    os.utime(source)
    try:
        third = start(processes, folder, tmp_path / "third.txt")
        assert server_pid(wait_for_pid(processes, third)) not in (server, other_server)
    finally:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    third.send_signal(signal.SIGTERM)
    wait_for_exit(processes, third)
