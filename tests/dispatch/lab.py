"""A small matrix of real training runs, and the command line as a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from protoseg.runs.claim import read
from protoseg.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds before a test gives up on something that takes a few: machines here are shared."""


@dataclass
class Lab:
    """Folders of one test, and commands run in them."""

    folder: Path
    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    """Set for every command, beside what is set here."""

    @property
    def runs(self) -> Path:
        """A name with a space and an umlaut: users have such folders."""
        return self.folder / "meine läufe"

    def matrix(self, rows: list[dict[str, Any]], seeds: list[int], iterations: int = 6) -> str:
        """Write a matrix of tiny runs and return its path."""
        content = {
            "title": "a test",
            "base": {
                "dataset": "shapes",
                "dataset.generator.size": 48,
                "dataset.generator.train": 12,
                "dataset.generator.val": 4,
                "dataset.counts": {"train": 12, "val": 4},
                "dataset.digest": "unpinned",
                "augmentation.scale": [48, 48],
                "augmentation.crop_size": [48, 48],
                "schedule.iterations": iterations,
                "schedule.batch_size": 2,
                "schedule.warmup_iterations": 0,
            },
            "rows": rows,
            "seeds": seeds,
            "table": {"metrics": ["miou", "parameters"], "baseline": {"label": rows[0]["label"]}},
        }
        path = self.folder / "matrix.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
        return str(path)

    def variables(self) -> dict[str, str]:
        """The environment of every command."""
        return {
            **os.environ,
            "PROTOSEG_RUNS": str(self.runs),
            "PROTOSEG_DATA": str(self.data),
            "PROTOSEG_RESULTS": str(self.folder / "results"),
            **self.environment,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start ``protoseg WORDS`` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "protoseg.cli", *words],
            cwd=ROOT,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``protoseg WORDS`` to its end."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def folders(self) -> list[RunFolder]:
        """The run folders made so far."""
        paths = sorted(self.runs.glob("[a-z]*")) if self.runs.exists() else []
        return [RunFolder(path) for path in paths]

    def records(self) -> list[dict[str, Any]]:
        """The valid records in the run folders."""
        found = [folder.status().record for folder in self.folders()]
        return [record for record in found if record is not None]


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}")


def trained_to(folder: RunFolder, iteration: int) -> bool:
    """Whether a checkpoint at or after ``iteration`` is on disk."""
    return any(int(p.stem[5:]) >= iteration for p in folder.checkpoints.glob("iter_*.json"))


def worker_pid(folder: RunFolder) -> int:
    """The process that holds the claim of a run."""
    found = wait_for(lambda: read(folder.claim), f"the claim of {folder.run_id}")
    return int(found[0].pid)


def no_litter(folder: RunFolder) -> bool:
    """Whether a run folder holds no claim and no half-written file."""
    names = [path.name for path in folder.path.rglob("*")]
    return not any(n.endswith((".tmp", ".stale")) or n == "claim.json" for n in names)


def as_json(result: subprocess.CompletedProcess[str]) -> Any:
    """What a command with ``--json`` printed."""
    return json.loads(result.stdout)
