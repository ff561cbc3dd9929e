"""The fork server's refusals; tests/launch/test_worker_processes.py tests it as a process."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator

import pytest

from protoseg.training import fork_server
from protoseg.training.fork_server import ForkServer

REQUEST = {"id": 7, "folder": "/nowhere", "log": "/dev/null", "environment": {}}


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """Read and write end of the request pipe, then of the answer pipe."""
    descriptors = (*os.pipe(), *os.pipe())
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def read_answers(pipes: tuple[int, int, int, int]) -> list[dict[str, object]]:
    return [json.loads(line) for line in os.read(pipes[2], 4096).splitlines()]


def serve_one_request(pipes: tuple[int, int, int, int]) -> list[dict[str, object]]:
    server = ForkServer(pipes[0], pipes[3])
    os.write(pipes[1], json.dumps(REQUEST).encode() + b"\n")
    server._read_requests()
    return read_answers(pipes)


def test_a_process_with_threads_is_not_forked(pipes: tuple[int, int, int, int]) -> None:
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    try:
        assert serve_one_request(pipes) == [{"id": 7, "refused": "threads"}]
    finally:
        is_over.set()
        thread.join()


def test_a_server_does_not_fork_after_source_files_changed(
    pipes: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([("imported",), ("now",)])
    monkeypatch.setattr(fork_server, "read_source_state", lambda: next(states))
    assert serve_one_request(pipes) == [{"id": 7, "refused": "stale"}]


def test_the_source_state_covers_every_module_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fork_server.read_source_state()
    assert fork_server.read_source_state() == before
    names = [entry[0] for entry in before if isinstance(entry, tuple)]
    assert any(name.endswith("core/sinkhorn.py") for name in names)
    monkeypatch.setattr(fork_server.importlib.metadata, "version", lambda name: "0")
    assert fork_server.read_source_state() != before
