"""Measure how long a sweep takes to exit after Ctrl-C, at random moments.

    python benchmarks/interrupt.py [--moments 20] [--seed 0] [--second]

Each measurement is a sweep of two small runs in a pseudo-terminal. It gets Ctrl-C after a random
time: during start, imports, build, training, evaluation or writing. With ``--second`` it gets a
second Ctrl-C half a second later. The same sweep must then finish when it is run again. The script
prints one line per measurement, and the median and longest time.

Exit status: 0, or 1 if a sweep could not be resumed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from terminal import TerminalSession

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 600.0
MATRIX = """\
title: interrupted
base:
  dataset: shapes
  schedule.iterations: 60
rows:
  - {label: "Parametric", method: parametric}
  - {label: "ProtoSeg", method: released, method.num_prototypes: 4}
seeds: [0]
table: {metrics: [miou], baseline: {label: Parametric}}
"""


def build_sweep_command(matrix: Path) -> list[str]:
    """Return the command of the sweep."""
    return [sys.executable, "-m", "protoseg.cli", "sweep", str(matrix), "--jobs", "2"]


def build_environment(folder: Path, data: Path) -> dict[str, str]:
    """Return the environment that stores runs and results in a folder."""
    paths = {"RUNS": folder / "runs", "DATA": data, "RESULTS": folder / "results"}
    return {**os.environ, **{f"PROTOSEG_{name}": str(path) for name, path in paths.items()}}


def find_last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def interrupt_sweep(folder: Path, data: Path, seconds: float, is_second: bool) -> tuple[float, str]:
    """Interrupt a sweep after some seconds; return seconds until exit and its last line."""
    folder.mkdir()
    matrix = folder / "interrupted.yaml"
    matrix.write_text(MATRIX)
    session = TerminalSession(
        build_sweep_command(matrix), build_environment(folder, data), str(ROOT)
    )
    try:
        time.sleep(seconds)
        session.press_ctrl_c()
        if is_second:
            time.sleep(0.5)
            session.press_ctrl_c()
        pressed = time.monotonic()
        session.wait(PATIENCE_SECONDS)
        return time.monotonic() - pressed, find_last_line(session.text)
    finally:
        session.close()


def resume_sweep(folder: Path, data: Path) -> bool:
    """Return whether the interrupted sweep finishes when it is run again."""
    command = build_sweep_command(folder / "interrupted.yaml")
    session = TerminalSession(command, build_environment(folder, data), str(ROOT))
    try:
        return session.wait(PATIENCE_SECONDS) == 0
    finally:
        session.close()


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--second", action="store_true", help="press Ctrl-C twice")
    parser.add_argument(
        "--longest", type=float, default=25.0, help="longest random time in seconds"
    )
    arguments = parser.parse_args()
    random_times = random.Random(arguments.seed)
    exit_times, failures = [], 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for number in range(arguments.moments):
            after = random_times.uniform(0.3, arguments.longest)
            folder = base / str(number)
            seconds, line = interrupt_sweep(folder, base / "data", after, arguments.second)
            is_resumed = resume_sweep(folder, base / "data")
            exit_times.append(seconds)
            failures += not is_resumed
            result = "resumed" if is_resumed else "NOT RESUMED"
            print(f"after {after:5.1f} s: exit in {seconds:4.2f} s, {result}; {line}", flush=True)
    print(f"median {statistics.median(exit_times):.2f} s, longest {max(exit_times):.2f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
