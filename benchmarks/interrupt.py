"""How long a sweep takes from Ctrl-C to the prompt, at random moments.

    python benchmarks/interrupt.py [--moments 20] [--seed 0] [--second]

Each moment is a sweep of two small runs in a pseudo-terminal that gets Ctrl-C after a random time:
while it starts, imports, builds, trains, evaluates or writes. With ``--second`` it gets another one
half a second later. Prints one line a moment and the longest time. Afterwards the same sweep must
finish: nothing was damaged.

Exit status: 0, or 1 if a sweep could not be continued.
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


def sweep_command(matrix: Path) -> list[str]:
    """The sweep that is interrupted."""
    return [sys.executable, "-m", "protoseg.cli", "sweep", str(matrix), "--jobs", "2"]


def environment_of(folder: Path, data: Path) -> dict[str, str]:
    """Variables that put runs and results of a sweep into a folder."""
    places = {"RUNS": folder / "runs", "DATA": data, "RESULTS": folder / "results"}
    return {**os.environ, **{f"PROTOSEG_{name}": str(path) for name, path in places.items()}}


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def interrupt(folder: Path, data: Path, seconds: float, is_second: bool) -> tuple[float, str]:
    """Interrupt a sweep after some seconds; seconds until it exited, and its last line."""
    folder.mkdir()
    matrix = folder / "interrupted.yaml"
    matrix.write_text(MATRIX)
    session = TerminalSession(sweep_command(matrix), environment_of(folder, data), str(ROOT))
    try:
        time.sleep(seconds)
        session.press_ctrl_c()
        if is_second:
            time.sleep(0.5)
            session.press_ctrl_c()
        pressed = time.monotonic()
        session.wait(PATIENCE_SECONDS)
        return time.monotonic() - pressed, last_line(session.text)
    finally:
        session.close()


def resume(folder: Path, data: Path) -> bool:
    """Whether the interrupted sweep finishes when it is run again."""
    command = sweep_command(folder / "interrupted.yaml")
    session = TerminalSession(command, environment_of(folder, data), str(ROOT))
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
    parser.add_argument("--longest", type=float, default=25.0, help="of the random times, seconds")
    arguments = parser.parse_args()
    random_times = random.Random(arguments.seed)
    times, failures = [], 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for number in range(arguments.moments):
            after = random_times.uniform(0.3, arguments.longest)
            folder = base / str(number)
            took, line = interrupt(folder, base / "data", after, arguments.second)
            is_resumed = resume(folder, base / "data")
            times.append(took)
            failures += not is_resumed
            result = "resumed" if is_resumed else "NOT RESUMED"
            print(f"after {after:5.1f} s: exit in {took:4.2f} s, {result}; {line}", flush=True)
    print(f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
