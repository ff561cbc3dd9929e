"""Measure the makespan of many runs on a SLURM testbed, and where the time is spent.

    python benchmarks/makespan.py [--runs 64] [--slots 16] [--iterations 150] [--report FILE.md]

The script starts a testbed of two nodes, submits one matrix of real training runs on the built-in
data, and waits until all have a record. It reports the makespan (start of the first job to end of
the last), the ratio to the ideal (sum of run times / slots), and the time per activity. Like the
testbed, it requires root and Debian's SLURM packages.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "slurm"))  # the testbed package

from testbed.conf import Shape  # noqa: E402
from testbed.testbed import Testbed  # noqa: E402

TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class Task:
    """Start and end times of one run in seconds since the epoch, and durations from its record."""

    job_start: float
    job_end: float
    begin: float
    end: float
    training: float
    evaluation: float


def write_matrix(folder: Path, runs: int, iterations: int) -> Path:
    """Write a matrix of ``runs`` small runs, half parametric, half with prototypes."""
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


def run_protoseg(environment: dict[str, str], *arguments: str) -> Any:
    """Run a protoseg command and return its JSON output."""
    command = [sys.executable, "-m", "protoseg.cli", *arguments, "--json"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if not result.stdout:
        raise SystemExit(f"protoseg {' '.join(arguments)}: {result.stderr}")
    return json.loads(result.stdout)


def parse_time(text: str) -> float:
    """Convert an ISO 8601 time to seconds since the epoch."""
    return datetime.datetime.fromisoformat(text).timestamp()


def read_tasks(testbed: Testbed, runs_folder: Path) -> list[Task]:
    """Read the times of every run from sacct and the run folders."""
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
                parse_time(start["time"]),
                parse_time(end["time"]),
                cost["seconds"],
                cost["evaluation_seconds"],
            )
        )
    return tasks


def format_report(tasks: list[Task], slots: int, command: str, submitted: float) -> str:
    """Format the results as Markdown."""
    makespan = max(t.job_end for t in tasks) - min(t.job_start for t in tasks)
    runs = sum(t.end - t.begin for t in tasks)
    jobs = sum(t.job_end - t.job_start for t in tasks)
    ideal = runs / slots
    total = makespan * slots
    training, evaluation = sum(t.training for t in tasks), sum(t.evaluation for t in tasks)
    parts = {
        "training": training,
        "evaluation": evaluation,
        "imports, build, data digest, record (rest of the worker)": runs - training - evaluation,
        "before the start of the worker: batch script, srun, interpreter": sum(
            t.begin - t.job_start for t in tasks
        ),
        "after the end of the worker: srun, batch script, SLURM's epilogue": sum(
            t.job_end - t.end for t in tasks
        ),
        "slots without a job: scheduling, and idle slots at the end": total - jobs,
    }
    rows = [
        f"| {name} | {value:.0f} | {100 * value / total:.1f}% |" for name, value in parts.items()
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            f"# {len(tasks)} runs on {slots} slots",
            "",
            f"`{command}` at commit {commit}, {os.cpu_count()} CPU cores, "
            f"Python {platform.python_version()}. Times have a resolution of one second.",
            "",
            f"- submitted in {submitted:.1f} s by one command",
            f"- makespan {makespan:.0f} s; ideal (sum of run times, {runs:.0f} s, / {slots}) "
            f"{ideal:.0f} s; **ratio {makespan / ideal:.2f}**",
            f"- the {slots} slots share {os.cpu_count()} cores. This slows the runs and affects "
            "both sides of the ratio",
            "",
            "| activity | seconds | share |",
            "|---|---:|---:|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Run the measurement; print the report and, if requested, write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    shown = ["python benchmarks/makespan.py", f"--runs {options.runs}", f"--slots {options.slots}"]
    command = " ".join([*shown, f"--iterations {options.iterations}"])
    with tempfile.TemporaryDirectory(prefix="makespan-") as name:
        folder = Path(name)
        testbed = Testbed(folder / "slurm", Shape(cpus=options.slots // 2))
        testbed.up()
        try:
            environment = {
                **os.environ,
                **testbed.env,
                "PROTOSEG_RUNS": str(folder / "runs"),
                "PROTOSEG_DATA": str(folder / "data"),
                "PROTOSEG_RESULTS": str(folder / "results"),
            }
            path = str(write_matrix(folder, options.runs, options.iterations))
            before = time.perf_counter()
            run_protoseg(environment, "sweep", path, "cluster=testbed", "cluster.memory=500M")
            submitted = time.perf_counter() - before
            end = time.monotonic() + TIMEOUT_SECONDS
            while time.monotonic() < end:
                counts = run_protoseg(environment, "status", path)["counts"]
                if counts["done"] == options.runs:
                    break
                time.sleep(5)
            else:
                raise SystemExit(f"not done after {TIMEOUT_SECONDS:.0f} s: {counts}")
            time.sleep(8)  # accounting lags
            text = format_report(
                read_tasks(testbed, folder / "runs"), options.slots, command, submitted
            )
        finally:
            testbed.down()
    if options.report:
        options.report.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
