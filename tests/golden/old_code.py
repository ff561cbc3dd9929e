"""The code of a fixed commit, run as real processes: what it leaves is what users have on disk."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import make_tiny_base
from waiting import finish

ROOT = Path(__file__).resolve().parents[2]
MOVED_FILE = "protoseg/spec/matrix.py"
"""A module of the old code. The commit that removed it is the first with the new layout."""
HOOK = Path(__file__).with_name("old_hook")
PARTS = ("protoseg", "experiments", "slurm", "pyproject.toml")
FOREIGN = ("PROTOSEG_", "SLURM", "SBATCH", "COVERAGE_")
"""Prefixes of variables that no process here inherits. Lines of old code must not be counted in
the coverage of the code in the checkout."""


def extract_old_code(folder: Path) -> Path:
    """Write the code of the last commit before the modules moved into a folder; return the folder.

    Without git history the test is skipped. In a complete clone the commit must exist.
    """
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git history, and this is no git checkout")
    removal = run_git(
        *("log", "-1", "--no-renames", "--diff-filter=D", "--format=%H", "--", MOVED_FILE)
    )
    if not removal and run_git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("needs the commit before the modules moved, and this clone is shallow")
    commit = f"{removal.decode().strip()}^"
    with tarfile.open(fileobj=io.BytesIO(run_git("archive", commit, *PARTS))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_git(*arguments: str) -> bytes:
    """The output of a git command in the checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def write_matrix(path: Path, seeds: list[int]) -> str:
    """Write a matrix of tiny runs with as much state as a checkpoint can have; its path."""
    content = {
        "title": "old runs",
        "base": make_tiny_base(12, warmup_iterations=2),
        "rows": [
            {
                "label": "released",
                # The values of the preset `released` of the old code: both codes know them.
                "method": "paper",
                "method.assignment": "gumbel",
                "method.update_pixels": "correct",
                "method.temperature": 1.0,
                "method.ppd_weight": 0.001,
                "method.projection": True,
                "method.embedding_norm": "layer",
                "method.score_norm": "layer",
                "method.distributed": "averaged",
                "method.num_prototypes": 3,
                "contrast": "pixel_small",
            }
        ],
        "seeds": seeds,
        "table": {"metrics": ["miou", "parameters"]},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


class CodeFolder:
    """Commands run with the code in one folder.

    Args:
        code: a checkout; may be a link.
        folder: of the test; data, caches and results are below it.
        settings: further environment variables of every command.
    """

    def __init__(self, code: Path, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.code, self.folder, self.settings = code, folder, dict(settings or {})

    def variables(self, runs: Path, **more: str) -> dict[str, str]:
        """The environment of a command that works on a folder of runs."""
        path = os.pathsep.join([*([str(HOOK)] if more else []), str(self.code)])
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        return {
            **inherited,
            "PYTHONPATH": path,
            "PROTOSEG_RUNS": str(runs),
            "PROTOSEG_DATA": str(self.folder / "data"),
            "PROTOSEG_RESULTS": str(self.folder / "results"),
            "PROTOSEG_CACHE": str(self.folder / "cache"),
            **self.settings,
            **more,
        }

    def start(self, runs: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start ``protoseg WORDS`` in a new process group.

        Args:
            more: variables for `old_hook`; with any, the hook is installed.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "protoseg.cli", *arguments],
            cwd=self.code,
            env=self.variables(runs, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, runs: Path, *arguments: str, status: int = 0) -> str:
        """Run ``protoseg WORDS`` to its end and return what it printed.

        Raises:
            AssertionError: another exit status than ``status``.
        """
        process = self.start(runs, *arguments)
        out, err = finish(process, logs=sorted(runs.glob("*/attempts/*/log.txt")))
        assert process.returncode == status, f"{arguments}: {process.returncode}: {out}{err}"
        return out

    def read_json(self, runs: Path, *arguments: str, status: int = 0) -> Any:
        """What ``protoseg WORDS --json`` prints."""
        return json.loads(self.call(runs, *arguments, "--json", status=status))
