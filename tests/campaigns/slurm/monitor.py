"""A monitor of a campaign: lifetimes of the workers, records, and the output of ``status``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.slurm.harness import Harness, parse_json
from protoseg import files
from protoseg.launch.submission import SUBMISSIONS_FOLDER
from protoseg.runs.claim import process_start

LOOK_SECONDS = 0.3
STATUS_SECONDS = 4.0


@dataclass
class AttemptTimes:
    """The observed times of one attempt."""

    began: float
    """Time of its start.json on this machine's clock."""
    pid: int
    process: str | None
    """Start time of the process, which identifies it if the pid is reused."""
    alive: float = 0.0
    """Last time at which the process was running."""


@dataclass
class Monitor:
    """Threads that watch a campaign until `stop`."""

    harness: Harness
    seen: dict[str, dict[int, AttemptTimes]] = field(default_factory=dict)
    """Run -> attempt -> its times."""
    records: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Run -> time of its record, and its digest at that time."""
    status_calls: int = 0
    slowest_status: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the threads."""
        for work in (self._watch_runs, self._query_status):
            self._threads.append(threading.Thread(target=work, name=work.__name__, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop the threads, and record the final state."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._record_state()

    def _watch_runs(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._record_state()

    def _record_state(self) -> None:
        for start in self.harness.runs.glob("*/attempts/*/start.json"):
            run, number = start.parts[-4], int(start.parts[-2])
            attempts = self.seen.setdefault(run, {})
            try:
                if number not in attempts:
                    pid = int(json.loads(start.read_bytes())["pid"])
                    process = process_start(pid) if pid else None
                    attempts[number] = AttemptTimes(start.stat().st_mtime, pid, process)
            except (OSError, ValueError, KeyError, TypeError):
                continue
            attempt = attempts[number]
            now = time.time()  # before the check, so that it is not later than the process's end
            if attempt.process is not None and process_start(attempt.pid) == attempt.process:
                attempt.alive = now
        for record in self.harness.runs.glob("*/record.json"):
            digest = _digest(record)
            run = record.parent.name
            if digest and run not in self.records:
                self.records[run] = record.stat().st_mtime, digest
            elif digest and self.records[run][1] != digest:
                self.harness.add_problem(f"{run}: its record changed")

    def _query_status(self) -> None:
        """Call ``status --json`` regularly, as a user does."""
        while not self._end.wait(STATUS_SECONDS):
            self._find_double_jobs()
            start = time.monotonic()
            process = self.harness.start("status", self.harness.whole, "--json")
            done = self.harness.finish(process, "protoseg status --json")
            self.slowest_status = max(self.slowest_status, time.monotonic() - start)
            self.status_calls += 1
            answer = parse_json(done.stdout)
            if (
                not isinstance(answer, dict)
                or len(answer.get("runs", [])) != self.harness.runs_wanted
            ):
                self.harness.add_problem(
                    f"protoseg status --json: {done.stdout[:300]!r} {done.stderr}"
                )

    def _find_double_jobs(self) -> None:
        """Report runs with two jobs that would both train."""
        queue = self.harness.queue() or []
        # Read after the queue: a second job is submitted after the first one is withdrawn.
        withdrawn = {
            files.read_json(path.with_name("intent.json"))["name"]
            for path in (self.harness.runs / SUBMISSIONS_FOLDER).glob("*/withdrawn.json")
        }
        jobs: dict[str, list[str]] = {}
        for job in queue:
            if job.state in ("PENDING", "RUNNING") and job.name not in withdrawn:
                jobs.setdefault(job.run, []).append(job.key)
        for run, keys in jobs.items():
            if len(keys) > 1:
                self.harness.add_problem(f"{run}: has {len(keys)} jobs at once: {', '.join(keys)}")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def find_leftovers(folder: Path) -> list[str]:
    """Return the commands of processes with the campaign's folder in arguments or environment."""
    commands = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        path = str(folder).encode()
        if (path in command or path in environment) and process.name not in _list_ancestors():
            commands.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
    return commands


def _list_ancestors() -> set[str]:
    """Return this process and its ancestors: their arguments name the folder too."""
    pids, pid = set(), "self"
    while pid not in ("0", ""):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pids.add(stat.split()[0])
        pid = stat.rpartition(")")[2].split()[1]
    return pids


def train_undisturbed(harness: Harness, seeds: list[int], folder: Path) -> Path:
    """Train both heads of some seeds without SLURM and faults, and return their runs folder."""
    matrix = harness.write_matrix(harness.folder / "undisturbed.yaml", seeds)
    runs = folder / "undisturbed"
    # One thread per run, as on the cluster: the number of threads changes the order of sums.
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    harness.protoseg("sweep", matrix, "--jobs", cores, runs=runs)
    return runs
