"""How long many runs take on a testbed, against the ideal, and where the rest of the time goes.

    python benchmarks/makespan.py [--runs 64] [--slots 16] [--iterations 150] [--report FILE.md]

Starts a testbed of two nodes with half of the slots each, submits one matrix of real training runs
on the built-in data, waits until all have their record, and reports the makespan (first job's
start to last job's end) as a ratio to the ideal (sum of the runs' times / slots), and what the
slots spent their time on. Root and Debian's SLURM packages are needed, as for the testbed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.conf import Shape
from testbed.testbed import Testbed

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 3600.0


@dataclass(frozen=True)
class Task:
    """Moments of one run, in seconds since the epoch, and what its record says of its training."""

    job_start: float
    job_end: float
    begin: float
    end: float
    training: float
    evaluation: float


def matrix(folder: Path, runs: int, iterations: int) -> Path:
    """A matrix of ``runs`` small runs; half parametric, half with prototypes."""
    content = {
        "title": "makespan",
        "base": {
            "dataset": "shapes",
            "dataset.generator.size": 48,
            "dataset.generator.train": 32,
            "dataset.generator.val": 8,
            "dataset.counts": {"train": 32, "val": 8},
            "dataset.digest": "unpinned",
            "augmentation.scale": [48, 48],
            "augmentation.crop_size": [48, 48],
            "backbone": "tiny",
            "decoder": "fcn",
            "schedule.iterations": iterations,
            "schedule.batch_size": 2,
            "schedule.warmup_iterations": 0,
        },
        "rows": [
            {"label": "parametric", "method": "parametric"},
            {"label": "prototypes", "method": "released"},
        ],
        "seeds": list(range(runs // 2)),
        "table": {"metrics": ["miou"]},
    }
    path = folder / "makespan.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def protoseg(environment: dict[str, str], *words: str) -> Any:
    """The JSON that a command prints."""
    command = [sys.executable, "-m", "protoseg.cli", *words, "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(f"protoseg {' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def seconds(moment: str) -> float:
    """A time in ISO 8601 as seconds since the epoch."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def read_tasks(testbed: Testbed, runs_folder: Path) -> list[Task]:
    """What sacct and the run folders say of every run."""
    columns = "--format=JobID%40,Start,End"
    out = testbed.ask("sacct", "-X", "-n", "-P", "--allusers", columns)
    jobs = {line.split("|")[0]: line.split("|")[1:] for line in out.splitlines() if "_" in line}
    tasks = []
    for folder in sorted(runs_folder.glob("[a-z]*")):
        start = json.loads((folder / "attempts" / "0001" / "start.json").read_text())
        end = json.loads((folder / "attempts" / "0001" / "end.json").read_text())
        cost = json.loads((folder / "record.json").read_text())["cost"]
        job_start, job_end = (time.mktime(time.strptime(t, "%Y-%m-%dT%H:%M:%S"))
                              for t in jobs[start["job"]])  # fmt: skip
        tasks.append(
            Task(
                job_start,
                job_end,
                seconds(start["time"]),
                seconds(end["time"]),
                cost["seconds"],
                cost["evaluation_seconds"],
            )
        )
    return tasks


def report(tasks: list[Task], slots: int, command: str, submitted: float) -> str:
    """The numbers as Markdown."""
    makespan = max(t.job_end for t in tasks) - min(t.job_start for t in tasks)
    runs = sum(t.end - t.begin for t in tasks)
    jobs = sum(t.job_end - t.job_start for t in tasks)
    ideal = runs / slots
    total = makespan * slots
    training, evaluation = sum(t.training for t in tasks), sum(t.evaluation for t in tasks)
    parts = {
        "training": training,
        "evaluation": evaluation,
        "imports, building, data digest, record (rest of the worker)": runs - training - evaluation,
        "before the worker began: batch script, srun, interpreter": sum(
            t.begin - t.job_start for t in tasks
        ),
        "after the worker's end: srun, batch script, SLURM's epilogue": sum(
            t.job_end - t.end for t in tasks
        ),
        "slots without a job: scheduling, and the last runs' tail": total - jobs,
    }
    rows = [
        f"| {name} | {value:.0f} | {100 * value / total:.1f} % |" for name, value in parts.items()
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            f"# {len(tasks)} runs on {slots} slots",
            "",
            f"`{command}` at commit {commit}, {os.cpu_count()} CPU cores, "
            f"Python {platform.python_version()}. Moments are known to a second.",
            "",
            f"- submitted in {submitted:.1f} s by one command",
            f"- makespan {makespan:.0f} s; ideal (the runs' own times, {runs:.0f} s, / {slots}) "
            f"{ideal:.0f} s; **ratio {makespan / ideal:.2f}**",
            f"- the {slots} slots share {os.cpu_count()} cores, so the runs' own times are long, "
            "and the same for both sides of the ratio",
            "",
            "| what the slots did | seconds | share |",
            "|---|---:|---:|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Run it and print, or write, the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    shown = ["python benchmarks/makespan.py", f"--runs {given.runs}", f"--slots {given.slots}"]
    command = " ".join([*shown, f"--iterations {given.iterations}"])
    with tempfile.TemporaryDirectory(prefix="makespan-") as name:
        folder = Path(name)
        testbed = Testbed(folder / "slurm", Shape(cpus=given.slots // 2))
        testbed.up()
        try:
            environment = {
                **os.environ,
                **testbed.env,
                "PROTOSEG_RUNS": str(folder / "runs"),
                "PROTOSEG_DATA": str(folder / "data"),
                "PROTOSEG_RESULTS": str(folder / "results"),
            }
            path = str(matrix(folder, given.runs, given.iterations))
            before = time.perf_counter()
            protoseg(environment, "sweep", path, "cluster=testbed", "cluster.memory=500M")
            submitted = time.perf_counter() - before
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                counts = protoseg(environment, "status", path)["counts"]
                if counts["done"] == given.runs:
                    break
                time.sleep(5)
            else:
                raise SystemExit(f"not done after {PATIENCE:.0f} s: {counts}")
            time.sleep(8)  # accounting lags
            text = report(read_tasks(testbed, folder / "runs"), given.slots, command, submitted)
        finally:
            testbed.down()
    if given.report:
        given.report.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
