"""Calls of the command line, with folders of their own and without training."""

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

from protoseg.cli import context, main
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun

FORKING = "test_reproduce.py"
"""The file whose tests fork workers."""
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(
    request: pytest.FixtureRequest,
    fork_server: ForkServer,  # noqa: F811
) -> None:
    """The imports of the fork server take seconds; meanwhile other tests run."""
    if any(item.path.name == FORKING for item in request.session.items):
        fork_server.prepare(WORKER_MODULES)


@dataclasses.dataclass(frozen=True)
class JobReport:
    """What a call came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, all of it, as JSON."""
        return json.loads(self.out)


_composer = functools.cache(Composer)
"""Composing is most of a call's time, and the config files are the same for all of them."""


@functools.cache
def _quickstart() -> tuple[PlannedRun, ...]:
    return load_matrix(_composer(REPOSITORY / "experiments"), "quickstart").runs


class CommandLine:
    """Calls ``protoseg`` with its folders below a temporary one."""

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

    def __call__(self, *words: str) -> JobReport:
        """In this process; every message of argparse counts as an answer too."""
        self.capsys.readouterr()
        try:
            status = main([words[0], *self.paths, *words[1:]])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self.capsys.readouterr()
        return JobReport(status, out, err)

    def quickstart(self) -> list[PlannedRun]:
        """The nine runs of the quickstart."""
        return list(_quickstart())

    def record(self, run: PlannedRun, miou: float, in_runs: bool = False, **changes: Any) -> Path:
        """A sealed record of a run, in results/records or in its run folder."""
        names = run.spec.dataset.classes
        per_class = [{"name": n, "iou": miou, "acc": 90.0, "pixels": 1000} for n in names]
        return self.lab.finish(run.spec, miou, in_runs, per_class=per_class, **changes)


@pytest.fixture
def protoseg(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("PROTOSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(context, "Composer", _composer)
    return CommandLine(tmp_path, capsys)


def shell(words: Sequence[str], code: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """In a process of its own; ``code`` runs after the call, in the same process."""
    driver = f"import sys\nfrom protoseg.cli import main\nstatus = main(sys.argv[1:])\n{code}\n"
    command = [sys.executable, "-c", driver + "sys.exit(status)", *words]
    options = {"capture_output": True, "text": True, "timeout": DEADLINE, **options}
    return subprocess.run(command, check=False, **options)
