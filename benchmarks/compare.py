"""Compare two saved runs of the same machine: ``python benchmarks/compare.py OLD.json NEW.json``.

The result of each case is ``slower``, ``faster``, ``same`` or ``inconclusive``. The change is the
new time divided by the old time; its interval combines the intervals of both runs. If both runs
timed the same references, the change must also show relative to them. If the references became
slower too, the machine is the cause. Exit status: 1 if a case is slower, 2 if the runs cannot be
compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["slower", "faster", "same", "inconclusive"]

THRESHOLDS = {
    "clustering": 1.15,
    "assignment and update": 1.15,
    "head, forward and backward": 1.10,
    "inference, head": 1.10,
    "inference, whole model": 1.05,
    "training iteration": 1.05,
    "planning and reporting": 1.30,
}
"""Group -> smallest change that counts. Files and small kernels vary more than long steps."""
DEFAULT_THRESHOLD = 1.15
MACHINE = ("device", "platform", "cores", "threads")


@dataclass(frozen=True)
class Change:
    """New time divided by old time, with an interval."""

    median: float
    low: float
    high: float

    def classify(self, threshold: float) -> Verdict:
        """Return the verdict that holds for the whole interval."""
        if self.low > threshold:
            return "slower"
        if self.high < 1 / threshold:
            return "faster"
        if self.low >= 1 / threshold and self.high <= threshold:
            return "same"
        return "inconclusive"


@dataclass(frozen=True)
class Line:
    """The comparison of one case in both runs."""

    group: str
    case: str
    verdict: Verdict
    change: Change
    relative: Change | None
    """The change relative to the references; None if the runs share no reference."""


def _compute_change(new: dict[str, float], old: dict[str, float]) -> Change:
    return Change(new["median"] / old["median"], new["low"] / old["high"], new["high"] / old["low"])


def _compute_relative_change(new: dict[str, Any], old: dict[str, Any]) -> Change | None:
    """Return the change relative to the shared references, their geometric mean."""
    shared = [name for name in new["references"] if name in old["references"]]
    if not shared:
        return None
    # A ratio is reference time / our time, so it falls if ours becomes slower.
    changes = [
        _compute_change(old["references"][name]["ratio"], new["references"][name]["ratio"])
        for name in shared
    ]
    logs = [[math.log(v) for v in (c.median, c.low, c.high)] for c in changes]
    return Change(*(math.exp(sum(column) / len(column)) for column in zip(*logs, strict=True)))


def compare_case(new: dict[str, Any], old: dict[str, Any], threshold: float) -> Line:
    """Compare one case of both runs."""
    change, relative = _compute_change(new["ours"], old["ours"]), _compute_relative_change(new, old)
    verdict = change.classify(threshold)
    if relative is not None and relative.classify(threshold) != verdict:
        verdict = "inconclusive"
    return Line(new["group"], new["case"], verdict, change, relative)


def read_run(path: Path) -> dict[str, Any]:
    """Read a saved run.

    Raises:
        ValueError: the file is not readable, or not a saved run.
    """
    advice = "Name a file that `make bench` wrote."
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}). {advice}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON. {advice}") from error
    if not isinstance(run, dict):
        raise ValueError(f"{path}: is not a saved run. {advice}")
    if not isinstance(run.get("versions"), dict) or not isinstance(run.get("cases"), list):
        raise ValueError(f"{path}: is not a saved run: it has no 'versions' or 'cases'. {advice}")
    for number, case in enumerate(run["cases"]):
        if not _is_case(case):
            raise ValueError(f"{path}: case {number} has no valid times. {advice}")
    return run


def _is_case(case: Any) -> bool:
    """Whether a case has a name, and positive times of ours and relative to each reference."""
    if not isinstance(case, dict) or not isinstance(case.get("references"), dict):
        return False
    ratios = [r.get("ratio") if isinstance(r, dict) else None for r in case["references"].values()]
    return all(isinstance(case.get(key), str) for key in ("group", "case")) and all(
        isinstance(times, dict)
        and all(
            isinstance(times.get(key), int | float) and times[key] > 0
            for key in ("median", "low", "high")
        )
        for times in (case.get("ours"), *ratios)
    )


def compare_runs(old: dict[str, Any], new: dict[str, Any]) -> list[Line]:
    """Compare all cases that both runs contain.

    Raises:
        ValueError: the runs have different machines or formats, or share no case.
    """
    for key in ("schema_version", *MACHINE):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{key} is {old.get(key)!r} in the old run and {new.get(key)!r} in the new one; "
                "run both benchmarks on the same machine with the same number of threads"
            )
    before = {(case["group"], case["case"]): case for case in old["cases"]}
    lines = [
        compare_case(case, before[key], THRESHOLDS.get(case["group"], DEFAULT_THRESHOLD))
        for case in new["cases"]
        if (key := (case["group"], case["case"])) in before
    ]
    if not lines:
        raise ValueError("the two runs share no case; compare runs of the same benchmarks")
    return lines


def format_report(lines: list[Line], old: dict[str, Any], new: dict[str, Any]) -> str:
    """Format the verdicts by group, with a summary."""
    out, group = [], ""
    for line in lines:
        if line.group != group:
            group = line.group
            threshold = THRESHOLDS.get(group, DEFAULT_THRESHOLD)
            out.append(f"{group} (threshold {threshold:.2f})")
        change = f"{line.change.median:.2f} ({line.change.low:.2f} to {line.change.high:.2f})"
        against = f", relative to references {line.relative.median:.2f}" if line.relative else ""
        out.append(f"  {line.verdict:12}  {change}{against}  {line.case}")
    versions = {
        name: (was, new["versions"].get(name))
        for name, was in old["versions"].items()
        if new["versions"].get(name) != was
    }
    out += [f"{name}: {was} before, {now} now" for name, (was, now) in versions.items()]
    counts = {v: sum(line.verdict == v for line in lines) for v in Verdict.__args__}  # type: ignore[attr-defined]
    out.append(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    unshared = {(c["group"], c["case"]) for c in old["cases"]} ^ {
        (c["group"], c["case"]) for c in new["cases"]
    }
    out += [f"in one run only: {len(unshared)} cases"] if unshared else []
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> int:
    """Compare two files; return 0, 1 if a case is slower, or 2 if they cannot be compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = (read_run(path) for path in (options.old, options.new))
        lines = compare_runs(old, new)
    except ValueError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(format_report(lines, old, new))
    return int(any(line.verdict == "slower" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
