"""The folders, matrices and commands of a fault campaign (see campaign.py).

The run folders are on a small tmpfs, so that a campaign can fill its own disk.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from testbed.testbed import Testbed, TestbedError
from testbed.waiting import DEADLINE_SECONDS
from tiny_runs import make_tiny_base

from campaigns.slurm.pace import VARIABLE as PACE
from campaigns.slurm.pace import write_faults_done
from protoseg import files
from protoseg.launch.submission import SUBMISSIONS_FOLDER

ROOT = Path(__file__).resolve().parents[3]
DISK_MIB = 512
RUNS_PER_NODE = 3
HEADS = (
    {"label": "Parametric", "method": "parametric"},
    {"label": "ProtoSeg", "method": "released", "method.num_prototypes": 2},
)
WRAPPER = """#!/bin/sh
# The real sbatch, with delays.
sleep "${CAMPAIGN_SBATCH_BEFORE:-0}"
"$CAMPAIGN_SBATCH" "$@"
status=$?
sleep "${CAMPAIGN_SBATCH_AFTER:-0}"
exit $status
"""


@dataclass(frozen=True)
class QueuedRun:
    """A job of a run in SLURM's queue."""

    key: str
    run: str
    state: str
    node: str
    name: str


@dataclass
class Harness:
    """Folders and commands of one campaign.

    Args:
        folder: folder of the campaign; a short path, because it contains the testbed's sockets.
        testbed: the cluster.
        runs_wanted: number of runs, a multiple of two.
        iterations: iterations of each run.
        random: source of all random choices.
        paced: whether trainings wait for the faults (pace.py).
        margin: factor of the oracle's reaction times.
        parts: the matrix grows from call to call; part n contains the first n/parts of the runs.
    """

    folder: Path
    testbed: Testbed
    runs_wanted: int
    iterations: int
    random: random.Random
    paced: bool = False
    margin: float = 1.0
    parts: int = 1
    stage: int = 1
    """The current part of the matrix."""
    slurm: str = ""
    """SLURM's version."""
    began: float = field(default_factory=time.time)
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    too_late: list[str] = field(default_factory=list)
    """Faults that were not injected before every run had its record."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # Paths.

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def runs(self) -> Path:
        """The runs folder; its name has a space and an umlaut, as users' folders may."""
        return self.disk / "meine läufe"

    @property
    def seeds(self) -> list[int]:
        return list(range((self.runs_wanted + len(HEADS) - 1) // len(HEADS)))

    def matrix(self, part: int) -> str:
        """Return the path of a part of the matrix."""
        return str(self.folder / f"part{part}.yaml")

    @property
    def pace(self) -> Path:
        """The file with the share of injected faults."""
        return self.folder / "pace" / "done"

    def next_part(self) -> str:
        """Move to the next part of the matrix, and return its path."""
        self.stage = min(self.parts, self.stage + 1)
        return self.matrix(self.stage)

    @property
    def whole(self) -> str:
        return self.matrix(self.parts)

    def prepare(self) -> None:
        """Create the folders, the matrices and the slow sbatch, and mount the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bin").mkdir()
        wrapper = self.folder / "bin" / "sbatch"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        self.disk.mkdir()
        self.pace.parent.mkdir()
        write_faults_done(self.pace, 0)
        options = f"size={DISK_MIB}m,mode=755"
        mount = ["mount", "-t", "tmpfs", "-o", options, "campaign", str(self.disk)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TestbedError(f"cannot mount a small disk: {done.stderr.strip()}")
        self.runs.mkdir()
        for part in range(1, self.parts + 1):
            count = max(1, round(len(self.seeds) * part / self.parts))
            self.write_matrix(Path(self.matrix(part)), self.seeds[:count])

    def write_matrix(self, path: Path, seeds: list[int]) -> str:
        """Write a matrix of tiny runs with both heads for each seed, and return its path."""
        content = {
            "title": "a fault campaign",
            "base": {
                **make_tiny_base(self.iterations),
                **({"backbone.settings.type": "pace.PacedNet"} if self.paced else {}),
            },
            "rows": [dict(head) for head in HEADS],
            "seeds": seeds,
            "table": {"metrics": ["miou"], "baseline": {"label": HEADS[0]["label"]}},
        }
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def close(self) -> None:
        """Unmount the disk; its content is lost."""
        if os.path.ismount(self.disk):
            subprocess.run(["umount", self.disk], check=False)
            if os.path.ismount(self.disk):
                subprocess.run(["umount", "--lazy", self.disk], check=True)

    # Commands.

    def environment(self, runs: Path | None = None) -> dict[str, str]:
        """Return the environment of every command, as on a login node."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
            **self.testbed.env,
            "PATH": path,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            **({} if runs else {PACE: str(self.pace)}),
            "CAMPAIGN_SBATCH": shutil.which("sbatch") or "/usr/bin/sbatch",
            "PROTOSEG_RUNS": str(runs or self.runs),
            "PROTOSEG_DATA": str(self.folder / "data"),
            "PROTOSEG_RESULTS": str(self.folder / "results"),
        }

    def start(
        self, *arguments: str, runs: Path | None = None, **extra: str
    ) -> subprocess.Popen[str]:
        """Start ``protoseg ARGUMENTS`` in its own process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "protoseg.cli", *arguments],
            cwd=ROOT,
            env=self.environment(runs) | extra,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(
        self, process: subprocess.Popen[str], what: str, allowed: tuple[int, ...] = (0, 1)
    ) -> subprocess.CompletedProcess[str]:
        """Wait for a command; a traceback, another exit status or a timeout is a problem."""
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            self.add_problem(f"{what}: no answer within {DEADLINE_SECONDS:.0f} s")
        if "Traceback" in err or "Traceback" in out:
            self.add_problem(f"{what}: traceback: {err[-1500:]}")
        elif process.returncode not in allowed:
            self.add_problem(f"{what}: exit status {process.returncode}: {err[-500:]}")
        return subprocess.CompletedProcess(what, process.returncode, out, err)

    def protoseg(
        self, *arguments: str, runs: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``protoseg ARGUMENTS`` and wait for its end."""
        return self.finish(self.start(*arguments, runs=runs), f"protoseg {arguments[0]}")

    def sweep_arguments(self, matrix: str, *more: str) -> list[str]:
        """Return the arguments of a sweep on the testbed."""
        memory = self.testbed.shape.memory // RUNS_PER_NODE
        return [
            *("sweep", matrix, "cluster=testbed", "cluster.cpus=1", f"cluster.memory={memory}M"),
            *(
                "cluster.checkpoint_seconds=2",
                "cluster.signal_seconds=20",
                "cluster.time='0:04:00'",
            ),
            *more,
        ]

    # State of the campaign.

    def add_event(self, event_kind: str, **details: Any) -> dict[str, Any]:
        """Add an event to the log."""
        entry = {"time": round(time.time() - self.began, 2), "kind": event_kind, **details}
        with self._lock:
            self.events.append(entry)
        return entry

    def add_problem(self, text: str) -> None:
        """Report a failed check."""
        with self._lock:
            self.problems.append(f"[{time.time() - self.began:.0f} s] {text}")
        print(f"PROBLEM {text}", file=sys.stderr, flush=True)

    def submissions(self) -> list[tuple[str, list[str], str, float]]:
        """Return (job name, runs, job id or "", time) of each submission on disk."""
        submissions = []
        for folder in sorted((self.runs / SUBMISSIONS_FOLDER).glob("*-*")):
            intent = files.read_json(folder / "intent.json")
            if isinstance(intent, dict):
                job = files.read_json(folder / "job.json") or {}
                at = intent["clock"] - self.began
                submissions.append((intent["name"], intent["runs"], str(job.get("job", "")), at))
        return submissions

    def release_held_jobs(self) -> None:
        """Release the jobs that SLURM holds, and resume drained nodes, as an administrator does.

        SLURM 22.05 holds a job that it started on a node where its requeued start is still alive
        ("Duplicate jobid"), and drains the node.
        """
        done = self.testbed.run("squeue", "--noheader", "--array", "--format=%i|%r")
        for line in done.stdout.splitlines():
            key, _, reason = line.partition("|")
            if "held" in reason.lower():
                self.add_event("released", job=key, why=reason)
                self.testbed.resume_nodes()
                self.testbed.run("scontrol", "release", key)

    def queue(self) -> list[QueuedRun] | None:
        """Return the jobs of runs in SLURM's queue; None if SLURM does not answer."""
        try:
            done = self.testbed.run("squeue", "--noheader", "--array", "--format=%i|%T|%N|%j")
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            return None
        runs = {name: ids for name, ids, *_ in self.submissions()}
        jobs = []
        for line in done.stdout.splitlines():
            key, state, node, name = line.strip().split("|", 3)
            _, _, index = key.partition("_")
            if name in runs and index.isdigit():
                jobs.append(QueuedRun(key, runs[name][int(index)], state, node, name))
        return jobs

    def records(self) -> int:
        """Return the number of runs with a record."""
        return len(list(self.runs.glob("*/record.json")))

    def progress(self) -> float:
        """Return the progress of all runs together, 0 to 1."""
        done = sum(self.iteration(folder.name) for folder in self.runs.glob("[a-z]*"))
        return done / (self.runs_wanted * self.iterations)

    def iteration(self, run: str) -> int:
        """Return the last iteration of a run."""
        content = files.read_json(self.runs / run / "progress.json")
        iteration = content.get("iteration", 0) if isinstance(content, dict) else 0
        waiting = self.pace.with_name(f"{run}.waiting")
        text = waiting.read_text() if waiting.exists() else ""
        return max(iteration, int(text or 0))


def run_git(*arguments: str) -> str:
    """Return the output of git; empty if it fails."""
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def parse_json(text: str) -> Any:
    """Parse the output of a command with ``--json``; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
