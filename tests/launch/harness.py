"""A harness for tests: matrices of small training runs, and commands as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from tiny_runs import make_tiny_base
from waiting import DEADLINE, log_tails, wait_until

from protoseg.runs.claim import live_holder
from protoseg.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
PLUGINS = Path(__file__).parent / "plugins"

Value = TypeVar("Value")


@dataclass
class Harness:
    """The folders of one test, and commands that use them."""

    folder: Path
    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    """Additional variables of every command."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """The runs folder; its name has a space and an umlaut, as users' folders may."""
        return self.folder / "meine läufe"

    def matrix(
        self,
        rows: list[dict[str, Any]],
        seeds: list[int],
        iterations: int = 6,
        pause_after: int | None = None,
    ) -> str:
        """Write a matrix of tiny runs and return its path.

        Args:
            iterations: length of each run.
            pause_after: iteration after which each training waits for a signal or for `resume`;
                0 pauses while the model is built.
        """
        pause = {}
        if pause_after is not None:
            pause = {"backbone.settings.type": "pausing_backbone.PausingNet"}
            known = [text for text in (os.environ.get("PYTHONPATH"),) if text]
            self.environment |= {
                "PAUSE_AFTER": str(pause_after),
                "PAUSE_FOLDER": str(self.folder),
                "PYTHONPATH": os.pathsep.join([str(PLUGINS), *known]),
            }
        content = {
            "title": "a test",
            "base": {**make_tiny_base(iterations), **pause},
            "rows": rows,
            "seeds": seeds,
            "table": {"metrics": ["miou", "parameters"], "baseline": {"label": rows[0]["label"]}},
        }
        path = self.folder / "matrix.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
        return str(path)

    def variables(self) -> dict[str, str]:
        """Return the environment of every command."""
        return {
            **os.environ,
            "PROTOSEG_RUNS": str(self.runs),
            "PROTOSEG_DATA": str(self.data),
            "PROTOSEG_RESULTS": str(self.folder / "results"),
            **self.environment,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``protoseg ARGUMENTS`` in its own process group."""
        process = subprocess.Popen(
            [sys.executable, "-m", "protoseg.cli", *arguments],
            cwd=ROOT,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait until a command exits.

        Raises:
            AssertionError: the deadline passed; its process group is killed.
        """
        try:
            out, err = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(
                f"waited {DEADLINE:.0f} s for {process.args} to exit{log_tails(self.logs())}"
            ) from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``protoseg ARGUMENTS`` and wait for its end."""
        return self.finish(self.start(*arguments))

    def copy(self, other: Harness) -> None:
        """Copy the run folders and results of another harness."""
        shutil.copytree(other.folder, self.folder, dirs_exist_ok=True)

    def end_processes(self) -> None:
        """Kill the commands and workers of a failed test."""
        for process in self.started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for folder in self.folders():
            if holder := live_holder(folder.claim):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder.pid, signal.SIGKILL)

    def folders(self) -> list[RunFolder]:
        """Return the run folders that exist."""
        paths = sorted(self.runs.glob("[a-z]*")) if self.runs.exists() else []
        return [RunFolder(path) for path in paths]

    def logs(self) -> Iterator[Path]:
        """Yield the logs of all attempts and batch scripts."""
        yield from self.runs.glob("*/attempts/*/log.txt")
        yield from self.runs.glob(".submissions/*/logs/*.txt")

    def wait_until(self, condition: Callable[[], Value], what: str) -> Value:
        """`waiting.wait_until`, with the logs of all attempts."""
        return wait_until(condition, what, logs=self.logs())

    def wait_for_folders(self, number: int = 1) -> list[RunFolder]:
        """Wait until there are as many run folders, and return them."""
        self.wait_until(lambda: len(self.folders()) >= number, f"{number} run folders")
        return self.folders()

    def wait_for_pause(self, folder: RunFolder) -> int:
        """Wait until a training pauses (see `matrix`), and return the worker's process id."""
        path = self.folder / f"{folder.run_id}.paused"
        self.wait_until(path.exists, f"the pause of {folder.run_id}")
        pid = int(path.read_text())
        path.unlink()  # the next attempt writes it again
        return pid

    def resume(self) -> None:
        """Resume paused trainings."""
        (self.folder / "go").touch()

    def records(self) -> list[dict[str, Any]]:
        """Return the valid records in the run folders."""
        records = [folder.status().record for folder in self.folders()]
        return [record for record in records if record is not None]


def has_checkpoint_at(folder: RunFolder, iteration: int) -> bool:
    """Return whether there is a checkpoint at or after ``iteration``."""
    return any(int(p.stem[5:]) >= iteration for p in folder.checkpoints.glob("iter_*.json"))


def has_no_temporary_files(folder: RunFolder) -> bool:
    """Return whether a run folder has no claim and no temporary file."""
    names = [path.name for path in folder.path.rglob("*")]
    return not any(n.endswith((".tmp", ".stale")) or n == "claim.json" for n in names)


def parse_json(result: subprocess.CompletedProcess[str]) -> Any:
    """Parse the output of a command with ``--json``."""
    return json.loads(result.stdout)
