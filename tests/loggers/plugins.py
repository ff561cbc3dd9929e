"""Loggers of other packages for tests: a module and its entry point, as pip installs them."""

from __future__ import annotations

import os
from pathlib import Path

RECORDER = '''
"""A logger that appends each call to a file, and misbehaves in one of them."""

import json, os, sys, time


class Recorder:
    def __init__(self):
        self._misbehave("init")

    def start(self, run):
        self.path = run.folder / "calls.txt"
        self._record("start", run.run_id, run.iterations, run.start, run.attempt, sorted(run.spec))

    def log(self, iteration, values):
        self._record("log", iteration, values)

    def log_metrics(self, iteration, metrics):
        self._record("log_metrics", iteration, metrics)

    def finish(self, reason):
        self._record("finish", reason)

    def _record(self, call, *arguments):
        print("output of the logger")
        with open(self.path, "a") as file:
            file.write(json.dumps([call, *arguments]) + "\\n")
        self._misbehave(call)

    def _misbehave(self, call):
        if os.environ.get("RECORDER_CALL") == call:
            how = os.environ["RECORDER_HOW"]
            if how == "raise":
                raise ValueError("the service\\nrefused it")
            if how == "exit":
                sys.exit("the logger exits")
            if how == "die":
                os._exit(9)
            time.sleep(3600)
'''


def install_logger(folder: Path, name: str, source: str, cls: str) -> None:
    """Put a module ``NAME_logger`` with an entry point into a folder of Python's path."""
    (folder / f"{name}_logger.py").write_text(source)
    info = folder / f"{name}_logger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_logger\nVersion: 1.0\n")
    points = f"[protoseg.loggers]\n{name} = {name}_logger:{cls}\n"
    (info / "entry_points.txt").write_text(points)


def prepend_path(folder: Path) -> str:
    """The value of PYTHONPATH with a folder before its entries."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
