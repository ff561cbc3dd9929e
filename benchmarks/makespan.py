"""The makespan of many runs on a testbed, compared with the ideal, and the use of the slots.

    python benchmarks/makespan.py [--runs 64] [--slots 16] [--iterations 150] [--report FILE.md]

Starts a testbed of two nodes, submits one matrix of training runs on the built-in data, and waits
for all records. Reports the makespan (start of the first job to end of the last) divided by the
ideal (sum of the runs' times / slots), and how the slots spent their time. Needs root and Debian's
SLURM packages, like the testbed.
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
sys.path.insert(0, str(ROOT / "slurm"))

from testbed.conf import Shape  # noqa: E402
from testbed.testbed import Testbed  # noqa: E402

TIME_LIMIT = 3600.0


@dataclass(frozen=True)
class RunTimes:
    """Times of one run in seconds since 1970, and the durations in its record in seconds."""

    job_start: float
    job_end: float
    begin: float
    end: float
    training: float
    evaluation: float


def write_matrix(folder: Path, runs: int, iterations: int) -> Path:
    """Write a matrix of ``runs`` small runs (half with prototypes), and return its path."""
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
    """Run a command with ``--json``, and return the parsed output."""
    command = [sys.executable, "-m", "protoseg.cli", *arguments, "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if not done.stdout:
        raise SystemExit(f"protoseg {' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout)


def parse_time(text: str) -> float:
    """Convert an ISO 8601 time to seconds since 1970."""
    return datetime.datetime.fromisoformat(text).timestamp()


def read_times(testbed: Testbed, runs_folder: Path) -> list[RunTimes]:
    """Read the times of every run from sacct and the run folders."""
    columns = "--format=JobID%40,Start,End"
    out = testbed.query("sacct", "-X", "-n", "-P", "--allusers", columns)
    jobs = {line.split("|")[0]: line.split("|")[1:] for line in out.splitlines() if "_" in line}
    times = []
    for folder in sorted(runs_folder.glob("[a-z]*")):
        start = json.loads((folder / "attempts" / "0001" / "start.json").read_text())
        end = json.loads((folder / "attempts" / "0001" / "end.json").read_text())
        cost = json.loads((folder / "record.json").read_text())["cost"]
        job_start, job_end = (time.mktime(time.strptime(t, "%Y-%m-%dT%H:%M:%S"))
                              for t in jobs[start["job"]])  # fmt: skip
        times.append(
            RunTimes(
                job_start,
                job_end,
                parse_time(start["time"]),
                parse_time(end["time"]),
                cost["seconds"],
                cost["evaluation_seconds"],
            )
        )
    return times


def format_report(times: list[RunTimes], slots: int, command: str, submitted: float) -> str:
    """Format the results as Markdown.

    Args:
        times: times of all runs.
        slots: number of slots.
        command: the command of this benchmark.
        submitted: duration of the submission in seconds.
    """
    makespan = max(t.job_end for t in times) - min(t.job_start for t in times)
    runs = sum(t.end - t.begin for t in times)
    jobs = sum(t.job_end - t.job_start for t in times)
    ideal = runs / slots
    total = makespan * slots
    training, evaluation = sum(t.training for t in times), sum(t.evaluation for t in times)
    parts = {
        "training": training,
        "evaluation": evaluation,
        "imports, building, data digest, record (rest of the worker)": runs - training - evaluation,
        "before the worker began: batch script, srun, interpreter": sum(
            t.begin - t.job_start for t in times
        ),
        "after the worker's end: srun, batch script, SLURM's epilogue": sum(
            t.job_end - t.end for t in times
        ),
        "slots without a job: scheduling, and the last runs' tail": total - jobs,
    }
    rows = [
        f"| {name} | {value:.0f} | {100 * value / total:.1f}% |" for name, value in parts.items()
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            f"# {len(times)} runs on {slots} slots",
            "",
            f"`{command}` at commit {commit}, {os.cpu_count()} CPU cores, "
            f"Python {platform.python_version()}. The resolution of the times is 1 s.",
            "",
            f"- submitted in {submitted:.1f} s by one command",
            f"- makespan {makespan:.0f} s; ideal (the runs' own times, {runs:.0f} s, / {slots}) "
            f"{ideal:.0f} s; **ratio {makespan / ideal:.2f}**",
            f"- the {slots} slots share {os.cpu_count()} cores, which makes each run slower; this "
            "affects makespan and ideal equally",
            "",
            "| time of the slots | seconds | share |",
            "|---|---:|---:|",
            *rows,
            "",
        ]
    )


def main() -> int:
    """Run the benchmark, and print or write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    command = (
        f"python benchmarks/makespan.py --runs {options.runs} --slots {options.slots} "
        f"--iterations {options.iterations}"
    )
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
            end = time.monotonic() + TIME_LIMIT
            while time.monotonic() < end:
                counts = run_protoseg(environment, "status", path)["counts"]
                if counts["done"] == options.runs:
                    break
                time.sleep(5)
            else:
                raise SystemExit(f"not finished after {TIME_LIMIT:.0f} s: {counts}")
            time.sleep(8)  # accounting is delayed
            times = read_times(testbed, folder / "runs")
            text = format_report(times, options.slots, command, submitted)
        finally:
            testbed.down()
    if options.report:
        options.report.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
