"""Kills through all stages of a search: a sweep that is killed at random moments, again and again.

    python tests/campaigns/tuned_kills.py [--kills 20] [--seed 0] [--report FILE.md]

A matrix with trials, a successive halving and final runs is swept once undisturbed. Then the same
sweep is started in another folder and killed after a random time, with its workers or without them,
by SIGKILL, SIGTERM or SIGINT, until the given number of kills is reached; a last sweep finishes it.
The choice must have the same bytes, and all records the same metrics, losses and weights.

Exit status: 0 if they have, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.harness import Harness

from protoseg.runs.claim import live_holder
from protoseg.runs.folder import RunFolder

MATRIX = Path(__file__).parents[1] / "cli" / "tuning" / "tuned.yaml"
OPTIONS = ("--jobs", "2", "--threads", "1", "--checkpoint-seconds", "0")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 12.0
"""Seconds until a kill, at most; the undisturbed sweep takes about half a minute."""
STAGES = ("first rung", "second rung", "final runs")


def write_matrix(folder: Path) -> str:
    """Write the matrix: 4 trials a row, of which 2 go on, then the final runs."""
    text = MATRIX.read_text()
    text = text.replace("trials: 3", "trials: 4\n  halving: {rungs: [2]}")
    path = folder / "tuned.yaml"
    path.write_text(text)
    return str(path)


def list_workers(harness: Harness) -> list[int]:
    """The processes that train runs now."""
    claims = [RunFolder(path.parent).claim for path in harness.runs.glob("*/spec.json")]
    return [holder.pid for claim in claims if (holder := live_holder(claim))]


def find_stage(harness: Harness) -> str:
    """The stage that a sweep is in, from the records."""
    records = len(list(harness.runs.glob("*/record.json")))
    if (harness.runs / "choices" / "tuned.json").exists():
        return STAGES[2]
    return STAGES[0] if records < 8 else STAGES[1]


def read_results(harness: Harness) -> dict[str, Any]:
    """Run -> the parts of its record that must not change."""
    results = {}
    for path in harness.runs.glob("*/record.json"):
        record = json.loads(path.read_text())
        state = record["provenance"]["state_sha256"]
        results[record["run_id"]] = [record["metrics"], record["losses"], state]
    return results


def kill_sweeps(harness: Harness, matrix: str, kills: int, draw: random.Random) -> list[str]:
    """Start and kill sweeps; return one line for each kill."""
    lines = []
    while len(lines) < kills:
        process = harness.start("sweep", matrix, *OPTIONS)
        seconds = draw.uniform(0.5, LONGEST)
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            break  # it has finished; fewer kills than asked for
        number, stage = draw.choice(SIGNALS), find_stage(harness)
        workers = list_workers(harness) if draw.random() < 0.5 else []
        for pid in [process.pid, *workers]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        process.wait()
        lines.append(
            f"| {len(lines) + 1} | {seconds:.1f} | {signal.Signals(number).name} | "
            f"{'sweep and ' + str(len(workers)) + ' workers' if workers else 'sweep'} | {stage} |"
        )
    return lines


def main() -> int:
    """Run the campaign, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write a report as Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="protoseg-tuned-") as name:
        folder, data = Path(name), Path(name) / "data"
        harnesses = []
        for part in ("undisturbed", "killed"):
            (folder / part).mkdir()
            harnesses.append(Harness(folder / part, data))
        undisturbed, killed = harnesses
        matrices = [write_matrix(harness.folder) for harness in harnesses]
        done = undisturbed.run("sweep", matrices[0], *OPTIONS)
        if done.returncode:
            print(done.stderr)
            return 1
        lines = kill_sweeps(killed, matrices[1], options.kills, random.Random(options.seed))
        last = killed.run("sweep", matrices[1], *OPTIONS)
        choices = [(h.runs / "choices" / "tuned.json").read_bytes() for h in harnesses]
        results = [read_results(harness) for harness in harnesses]
        is_equal = last.returncode == 0 and choices[0] == choices[1] and results[0] == results[1]
        counted = ", ".join(f"{sum(s in line for line in lines)} in {s}" for s in STAGES)
        summary = (
            f"{len(lines)} kills ({counted}); choice and {len(results[1])} of {len(results[0])} "
            f"records {'equal' if is_equal else 'DIFFERENT'}; last sweep: exit {last.returncode}."
        )
        print(summary, last.stderr, sep="\n")
        if options.report:
            head = ["# Kills through the stages of a search", "", summary, ""]
            command = f"`python tests/campaigns/tuned_kills.py --kills {options.kills} --seed {options.seed}`"  # noqa: E501
            table = ["| kill | after (s) | signal | processes | stage |", "|---|---|---|---|---|"]
            options.report.write_text("\n".join([*head, command, "", *table, *lines, ""]))
        killed.end_processes()
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
