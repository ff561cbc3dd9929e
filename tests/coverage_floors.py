"""Line and branch coverage by folder, held against the committed floors.

``make coverage`` runs the suite under coverage.py and calls this on its JSON report. ``--write``
makes today's coverage, less `SLACK` and rounded down, the new floors.

Exit status: 0, or 1 if a folder is below its floor.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLOORS = Path(__file__).with_suffix(".json")
REPORT = ROOT / ".coverage" / "coverage.json"
SLACK = 1.0
"""Percent. Workers killed by a test write no coverage: what they ran alone differs by chance."""
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def coverage_by_folder(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Percentages of covered lines and branches of every folder of protoseg."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for name, file in report["files"].items():
        parts = Path(name).parts
        folder = parts[1] if len(parts) > 2 else "protoseg"
        for count in COUNTS:
            totals[folder][count] += file["summary"][count]
    return {
        folder: {
            "lines": percentage(total["covered_lines"], total["num_statements"]),
            "branches": percentage(total["covered_branches"], total["num_branches"]),
        }
        for folder, total in sorted(totals.items())
    }


def percentage(part: int, whole: int) -> float:
    """Percent, rounded down to one digit; 100 of nothing."""
    return math.floor(1000 * part / whole) / 10 if whole else 100.0


def problems(found: dict[str, dict[str, float]], floors: dict[str, dict[str, float]]) -> list[str]:
    """A sentence for each folder below its floor or without one."""
    sentences = []
    for folder, values in found.items():
        if folder not in floors:
            sentences.append(f"{folder}: has no floor in {FLOORS.name}; add one with --write.")
            continue
        for kind, value in values.items():
            floor = floors[folder][kind]
            if value < floor:
                sentences.append(
                    f"{folder}: {value}% of the {kind} are covered, the floor is {floor}%. Test "
                    "what is new, or explain the lower floor in the commit."
                )
    return sentences


def main(arguments: list[str]) -> int:
    """Print the coverage of every folder, and check or write the floors."""
    found = coverage_by_folder(json.loads(REPORT.read_text(encoding="utf-8")))
    for folder, values in found.items():
        print(f"{folder:12} lines {values['lines']:5.1f}%  branches {values['branches']:5.1f}%")
    if arguments == ["--write"]:
        floors = {
            folder: {kind: math.floor(value - SLACK) for kind, value in values.items()}
            for folder, values in found.items()
        }
        FLOORS.write_text(json.dumps(floors, indent=1) + "\n", encoding="utf-8")
        return 0
    sentences = problems(found, json.loads(FLOORS.read_text(encoding="utf-8")))
    print("\n".join(sentences), end="\n" if sentences else "")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
