"""Looks at a campaign all the time, from outside: who lives when, and what ``status`` says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.slurm.harness import Lab, as_json
from protoseg import files
from protoseg.launch.submission import FOLDER
from protoseg.runs.claim import process_start

LOOK_SECONDS = 0.3
STATUS_SECONDS = 4.0


@dataclass
class Seen:
    """What was seen of one attempt."""

    began: float
    """When its start.json was written, on this machine's clock."""
    pid: int
    process: str | None
    """Which process of that number it is."""
    alive: float = 0.0
    """When the process was seen last."""


@dataclass
class Watch:
    """Threads that look until `stop`."""

    lab: Lab
    seen: dict[str, dict[int, Seen]] = field(default_factory=dict)
    """Run -> attempt -> what was seen of it."""
    records: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Run -> when its record was written, and its digest then."""
    status_calls: int = 0
    slowest_status: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to look."""
        for work in (self._look, self._ask):
            self._threads.append(threading.Thread(target=work, name=work.__name__, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Look once more, and end."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._look_once()

    def _look(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look_once()

    def _look_once(self) -> None:
        for start in self.lab.runs.glob("*/attempts/*/start.json"):
            run, number = start.parts[-4], int(start.parts[-2])
            attempts = self.seen.setdefault(run, {})
            try:
                if number not in attempts:
                    pid = int(json.loads(start.read_bytes())["pid"])
                    process = process_start(pid) if pid else None
                    attempts[number] = Seen(start.stat().st_mtime, pid, process)
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found = attempts[number]
            now = time.time()  # before the look: it is never later than the process's end
            if found.process is not None and process_start(found.pid) == found.process:
                found.alive = now
        for record in self.lab.runs.glob("*/record.json"):
            digest = _digest(record)
            run = record.parent.name
            if digest and run not in self.records:
                self.records[run] = record.stat().st_mtime, digest
            elif digest and self.records[run][1] != digest:
                self.lab.problem(f"{run}: its record changed")

    def _ask(self) -> None:
        """``status --json``, as often as somebody with a terminal would look."""
        while not self._end.wait(STATUS_SECONDS):
            self._look_for_doubles()
            begun = time.monotonic()
            process = self.lab.start("status", self.lab.whole, "--json")
            done = self.lab.finish(process, "protoseg status --json")
            self.slowest_status = max(self.slowest_status, time.monotonic() - begun)
            self.status_calls += 1
            answer = as_json(done.stdout)
            if not isinstance(answer, dict) or len(answer.get("runs", [])) != self.lab.runs_wanted:
                self.lab.problem(f"protoseg status --json: {done.stdout[:300]!r} {done.stderr}")

    def _look_for_doubles(self) -> None:
        """No run may have two jobs that will both train it."""
        queue = self.lab.queue() or []
        # After the look at the queue: a second job is submitted when the first one is withdrawn.
        withdrawn = {
            files.read_json(path.with_name("intent.json"))["name"]
            for path in (self.lab.runs / FOLDER).glob("*/withdrawn.json")
        }
        jobs: dict[str, list[str]] = {}
        for job in queue:
            if job.state in ("PENDING", "RUNNING") and job.name not in withdrawn:
                jobs.setdefault(job.run, []).append(job.key)
        for run, keys in jobs.items():
            if len(keys) > 1:
                self.lab.problem(f"{run}: has {len(keys)} jobs at once: {', '.join(keys)}")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def leftovers(folder: Path) -> list[str]:
    """Processes whose words name the campaign's folder, or whose environment does."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes()
            surroundings = (process / "environ").read_bytes()
        except OSError:
            continue
        mine = str(folder).encode()
        if (mine in words or mine in surroundings) and process.name not in _ancestry():
            found.append(words.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def _ancestry() -> set[str]:
    """This process and those that started it: their words name the folder too."""
    found, number = set(), "self"
    while number not in ("0", ""):
        try:
            stat = Path(f"/proc/{number}/stat").read_text()
        except OSError:
            break
        found.add(stat.split()[0])
        number = stat.rpartition(")")[2].split()[1]
    return found


def trained_alone(lab: Lab, seeds: list[int], folder: Path) -> Path:
    """Train both heads of some seeds without SLURM and without faults; the folder of their runs."""
    matrix = lab.write_matrix(lab.folder / "undisturbed.yaml", seeds)
    runs = folder / "undisturbed"
    # One thread a run, as on the cluster: another number sums in another order.
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    lab.protoseg("sweep", matrix, "--jobs", cores, runs=runs)
    return runs
