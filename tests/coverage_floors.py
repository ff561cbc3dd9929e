"""Compares the line and branch coverage of each folder with its floor, the committed minimum.

    python tests/coverage_floors.py TIERS [--write]

TIERS is what ran under coverage.py before: ``first``, the first tier of the tests (CI), or ``both``
(``make coverage``). The script reads coverage.py's JSON report.
``--write`` sets new floors of these tiers: the current coverage minus `SLACK`, rounded down.

Exit status: 0, or 1 if a folder is below its floor or has none.
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
"""Percent. Workers that a test kills write no coverage, so the coverage varies between runs."""
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def coverage_by_folder(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Percentages of covered lines and branches of each folder of protoseg."""
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
    """Percent, rounded down to one decimal; 100 if the whole is 0."""
    return math.floor(1000 * part / whole) / 10 if whole else 100.0


def find_problems(
    coverage: dict[str, dict[str, float]], floors: dict[str, dict[str, float]]
) -> list[str]:
    """A message for each folder that is below its floor or has none."""
    messages = []
    for folder, percentages in coverage.items():
        if folder not in floors:
            messages.append(f"{folder}: has no floor in {FLOORS.name}. Add it with --write.")
            continue
        for unit, value in percentages.items():
            floor = floors[folder][unit]
            if value < floor:
                messages.append(
                    f"{folder}: {value}% of the {unit} are covered, the floor is {floor}%. Add "
                    "tests, or lower the floor with --write and give the reason in the commit."
                )
    return messages


def main(arguments: list[str]) -> int:
    """Print the coverage of each folder; check the floors, or write them with ``--write``."""
    tiers, *options = arguments
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    coverage = coverage_by_folder(json.loads(REPORT.read_text(encoding="utf-8")))
    for folder, percentages in coverage.items():
        lines, branches = percentages["lines"], percentages["branches"]
        print(f"{folder:12} lines {lines:5.1f}%  branches {branches:5.1f}%")
    if options == ["--write"]:
        floors[tiers] = {
            folder: {unit: math.floor(value - SLACK) for unit, value in percentages.items()}
            for folder, percentages in coverage.items()
        }
        FLOORS.write_text(json.dumps(floors, indent=1) + "\n", encoding="utf-8")
        return 0
    problems = find_problems(coverage, floors[tiers])
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
