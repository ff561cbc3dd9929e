"""A logger of another package, whose process the tests start."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE

from loggers.plugins import RECORDER, install_logger, prepend_path
from protoseg.loggers.client import LoggerProcess


class Client:
    """The client of one logger: what it has warned, and its output."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.output = folder, folder / "output.txt"
        self.warnings: list[str] = []
        self.process = LoggerProcess(name, self.output, self.warnings.append)

    def start_run(self, **changes: Any) -> None:
        """Call `start` for a run of 100 iterations."""
        settings = {"run_id": "run-s0-0123456789", "spec": {"seed": 0}, "iterations": 100}
        self.process.send_call("start", folder=str(self.folder), **settings | changes)

    def close(self, reason: str = "done", seconds: float = DEADLINE) -> None:
        """Call `finish` and wait for the end of the process."""
        self.process.send_call("finish", reason=reason)
        self.process.close(time.monotonic() + seconds)

    @property
    def calls(self) -> list[Any]:
        """The calls that the logger ``recorder`` has received."""
        lines = (self.folder / "calls.txt").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Python's path with the logger ``recorder``."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    install_logger(folder, "recorder", RECORDER, "Recorder")
    monkeypatch.setenv("PYTHONPATH", prepend_path(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "recorder_logger", raising=False)
    return folder


@pytest.fixture
def make_client(tmp_path: Path) -> Callable[[str], Client]:
    """A function that starts a logger on an empty run folder."""

    def start_client(name: str) -> Client:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return Client(folder, name)

    return start_client
