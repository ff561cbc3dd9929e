"""Recomputes choices of settings from counts of pixels, without any code of protoseg.

    python tests/reference/choices.py results/choices/MATRIX.json results/records

It prints the chosen trial of each row, and exits with 1 if the choice has another one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def compute_metrics(path: Path) -> dict[str, float]:
    """Compute mIoU, mAcc and aAcc in percent from the confusion counts of a run."""
    with np.load(path) as file:
        classes = int(file["num_classes"])
        cells = np.bincount(file["cell"], weights=file["count"], minlength=classes**2)
    matrix = cells.reshape(classes, classes)
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = truth + predicted - hits
    ious = [100 * h / u for h, u in zip(hits, union, strict=True) if u > 0]
    accuracies = [100 * h / t for h, t in zip(hits, truth, strict=True) if t > 0]
    return {
        "miou": float(np.mean(ious)),
        "macc": float(np.mean(accuracies)),
        "aacc": float(100 * hits.sum() / truth.sum()),
    }


def recompute_choice(choice: dict[str, Any], records: Path) -> dict[str, int]:
    """Return row -> number of its best trial; of equal ones the first. 0 if other trials go on.

    Args:
        choice: the content of a choice.
        records: folder with the confusion counts of all trials, ``RUN_ID.npz``.
    """
    best = {}
    for row in choice["rows"]:
        for rung in row.get("rungs", ()):
            ranked = rank_trials(rung["trials"], choice["metric"], records)
            if sorted(ranked[: len(rung["promoted"])]) != rung["promoted"]:
                print(f"{row['row']}: other trials go on after {rung['iterations']} iterations")
                best[row["row"]] = 0
        last = [trial for trial in row["trials"] if "stopped_after" not in trial]
        best.setdefault(row["row"], rank_trials(last, choice["metric"], records)[0])
    return best


def rank_trials(trials: list[dict[str, Any]], metric: str, records: Path) -> list[int]:
    """Return the numbers of trials with counts, the best first; of equal ones the lowest."""
    values = {}
    for trial in trials:
        path = records / f"{trial['run_id']}.npz"
        if path.exists():
            # Records have the same digits; sums in another order may differ in the last ones.
            values[trial["number"]] = round(compute_metrics(path)[metric], 9)
    return sorted(values, key=lambda number: (-values[number], number))


def main(choice_file: str, records: str) -> int:
    """Print and compare the chosen trials; return the exit status."""
    choice = json.loads(Path(choice_file).read_text())
    best = recompute_choice(choice, Path(records))
    for row in choice["rows"]:
        print(f"{row['row']}: trial {best[row['row']]} of {len(row['trials'])}")
    return int(best != {row["row"]: row["chosen"] for row in choice["rows"]})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
