"""Calls ``protoseg`` in the process of the test, with temporary folders."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import ForkServer, fork_server  # noqa: F401  a fixture
from report.lab import Lab
from training.small import WORKER_MODULES
from waiting import DEADLINE

from protoseg import paths
from protoseg.cli import context, main
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun

FORKING = "test_reproduce.py"
"""The file whose tests train runs in forked workers."""
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(
    request: pytest.FixtureRequest,
    fork_server: ForkServer,  # noqa: F811
) -> None:
    """Start the imports of the fork server, which take seconds, while other tests run."""
    if any(item.path.name == FORKING for item in request.session.items):
        fork_server.prepare(WORKER_MODULES)


@dataclasses.dataclass(frozen=True)
class CommandResult:
    """Exit status and output of a call."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The whole standard output, parsed as JSON."""
        return json.loads(self.out)


_composer = functools.cache(Composer)
"""One composer for all calls: composing takes most of their time."""


@functools.cache
def _quickstart() -> tuple[PlannedRun, ...]:
    return load_matrix(_composer(REPOSITORY / "experiments"), "quickstart").runs


class CommandLine:
    """Calls ``protoseg`` with folders inside a temporary one.

    Attributes:
        lab: makes run folders and records.
        paths: options with the folders, put after the verb of every call.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.lab = Lab(folder)
        self.data = folder / "data"
        self.paths = [
            *("--experiments", str(REPOSITORY / "experiments")),
            *("--runs", str(self.lab.runs)),
            *("--results", str(folder)),
            *("--data", str(self.data)),
        ]

    def __call__(self, verb: str, *arguments: str) -> CommandResult:
        """Run a verb in this process; errors of argparse are results too."""
        self.capsys.readouterr()
        try:
            status = main([verb, *self.paths, *arguments])
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = self.capsys.readouterr()
        return CommandResult(status, out, err)

    def quickstart(self) -> list[PlannedRun]:
        """The nine runs of the quickstart."""
        return list(_quickstart())

    def record(self, run: PlannedRun, miou: float, in_runs: bool = False, **changes: Any) -> Path:
        """Write a record of a run into results/records or the run folder, and return its path."""
        classes = run.spec.dataset.classes
        per_class = [{"name": name, "iou": miou, "acc": 90.0, "pixels": 1000} for name in classes]
        return self.lab.finish(run.spec, miou, in_runs, per_class=per_class, **changes)


@pytest.fixture
def shipped_results() -> Path:
    """A test with this fixture reads the committed results of the checkout too."""
    return REPOSITORY / "results"


@pytest.fixture
def protoseg(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("PROTOSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(context, "Composer", _composer)
    if "shipped_results" not in request.fixturenames:
        # The committed records would complete and contradict those of a test.
        monkeypatch.setattr(paths, "find_shipped_results", tuple)
    return CommandLine(tmp_path, capsys)


def run_in_process(
    arguments: Sequence[str], code: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``protoseg`` in a separate process.

    Args:
        code: Python code that this process runs after the call.
        options: for `subprocess.run`.
    """
    driver = f"import sys\nfrom protoseg.cli import main\nstatus = main(sys.argv[1:])\n{code}\n"
    command = [sys.executable, "-c", driver + "sys.exit(status)", *arguments]
    options = {"capture_output": True, "text": True, "timeout": DEADLINE, **options}
    return subprocess.run(command, check=False, **options)
