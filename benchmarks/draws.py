"""The spread of a result over runs that differ by rounding only, beside the spread over seeds.

    python benchmarks/draws.py [--matrix quickstart] [--rows 1 3] [--seeds 6] [--json FILE]

Another number of threads or processes sums in another order. The first results differ by rounding;
training amplifies this, most where pixels are assigned to prototypes. The script trains each row
with its first seed and 1, 2, 3 and 4 threads, and with 2 and 4 processes of one thread, which share
a batch as the tasks of a SLURM job do; and with other seeds and one thread. It prints the mIoU of
each run, and mean and sample standard deviation over the draws and over the seeds.

The default takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from protoseg.runs.folder import Launch, RunFolder
from protoseg.runs.record import read_record

ROOT = Path(__file__).resolve().parents[1]
DRAWS = ((1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 4))
"""(threads, processes) of the runs of one seed."""


@dataclass(frozen=True)
class Result:
    """The mIoU of one run."""

    row: str
    seed: int
    threads: int
    processes: int
    miou: float


def train_spec(spec: RunSpec, folder: Path, data: Path, threads: int, processes: int) -> float:
    """Train a run with some threads and processes, and return its mIoU."""
    run = RunFolder(folder / f"{threads}-{processes}" / run_id(spec))
    launch = Launch(str(data), str(data / "weights"), threads=threads)
    run.create(to_plain(spec, identity=True), asdict(launch))
    command = [sys.executable, "-m", "protoseg.training.worker", str(run.path)]
    workers = [
        subprocess.Popen(command, env=make_environment(rank, processes), cwd=ROOT)
        for rank in range(processes)
    ]
    statuses = [worker.wait() for worker in workers]
    if any(statuses):
        raise SystemExit(f"{run.path}: a worker failed; see its log.")
    return float(read_record(run.record)["metrics"]["miou"])


def make_environment(rank: int, size: int) -> dict[str, str]:
    """The environment of one of several processes, as srun sets it; of one process without it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    if size == 1:
        return environment
    return {
        **environment,
        "SLURM_CONF": "/dev/null",  # no SLURM command can answer
        "SLURM_JOB_ID": "4000000000",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def list_specs(matrix: Matrix, rows: list[int]) -> list[tuple[str, RunSpec]]:
    """Name and first spec of some rows, by their numbers from 1."""
    first: dict[str, RunSpec] = {}
    for run in matrix.runs:
        first.setdefault(", ".join(str(value) for value in run.axes.values()), run.spec)
    names = list(first.items())
    return [names[number - 1] for number in rows]


def main() -> int:
    """Train, print the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrix", default="quickstart")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    matrix = load_matrix(Composer(ROOT / "experiments"), arguments.matrix)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for row, spec in list_specs(matrix, arguments.rows):
            cases = [(spec.seed, *draw) for draw in DRAWS]
            cases += [(spec.seed + number, 1, 1) for number in range(1, arguments.seeds)]
            for seed, threads, processes in cases:
                seeded = dataclasses.replace(spec, seed=seed)
                miou = train_spec(seeded, Path(folder), arguments.data, threads, processes)
                results.append(Result(row, seed, threads, processes, miou))
                print(
                    f"{row}  seed {seed}  {threads} threads  {processes} processes  {miou:.2f}",
                    flush=True,
                )
            of_row = [result for result in results if result.row == row]
            draws = [r.miou for r in of_row if r.seed == spec.seed]
            seeds = [r.miou for r in of_row if (r.threads, r.processes) == (1, 1)]
            for what, values in (("draws", draws), ("seeds", seeds)):
                mean, std = statistics.fmean(values), statistics.stdev(values)
                print(f"{row}: {len(values)} {what}: {mean:.2f} ± {std:.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
