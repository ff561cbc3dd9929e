"""Tests of the task program outside a job; tests/slurm/testbed runs it in jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["protoseg.launch.task", "protoseg.dispatch.task"])
def test_the_task_program_has_a_new_and_an_old_name(module: str) -> None:
    """Batch scripts of queued jobs start the old name."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    result = subprocess.run(
        [sys.executable, "-m", module, "folder"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == "usage, inside a job: python -m protoseg.launch.task SUBMISSION\n"
