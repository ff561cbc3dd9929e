"""Compare two saved runs of the same machine: ``python benchmarks/compare.py OLD.json NEW.json``.

For each case it says ``slower``, ``faster``, ``same`` or ``can not tell``. A change is the time of
the new run over that of the old one; its interval goes from the best case of both intervals to the
worst. Where both runs timed the same references, the change must also show against them: if all of
them became slower by as much, it was the machine. Exit status 1 where a case is slower, 2 where the
runs can not be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["slower", "faster", "same", "can not tell"]

THRESHOLDS = {
    "clustering": 1.15,
    "assignment and update": 1.15,
    "head, forward and backward": 1.10,
    "inference, head": 1.10,
    "inference, whole model": 1.05,
    "training iteration": 1.05,
    "planning and reporting": 1.30,
}
"""Group -> from which change on it counts; files and small kernels scatter more than long steps."""
OTHERS = 1.15
MACHINE = ("device", "platform", "cores", "threads")


@dataclass(frozen=True)
class Change:
    """How many times as long as before, with an interval."""

    median: float
    low: float
    high: float

    def verdict(self, threshold: float) -> Verdict:
        """What the interval allows to say."""
        if self.low > threshold:
            return "slower"
        if self.high < 1 / threshold:
            return "faster"
        if self.low >= 1 / threshold and self.high <= threshold:
            return "same"
        return "can not tell"


@dataclass(frozen=True)
class Line:
    """The comparison of one case."""

    group: str
    case: str
    verdict: Verdict
    change: Change
    relative: Change | None
    """The change as the references see it; None without any."""


def _change(new: dict[str, float], old: dict[str, float]) -> Change:
    return Change(new["median"] / old["median"], new["low"] / old["high"], new["high"] / old["low"])


def _relative(new: dict[str, Any], old: dict[str, Any]) -> Change | None:
    """The change against the references that both runs timed, their geometric mean."""
    shared = [name for name in new["references"] if name in old["references"]]
    if not shared:
        return None
    # A ratio says how many times as long the reference takes: it falls when ours gets slower.
    changes = [
        _change(old["references"][name]["ratio"], new["references"][name]["ratio"])
        for name in shared
    ]
    logs = [[math.log(v) for v in (c.median, c.low, c.high)] for c in changes]
    return Change(*(math.exp(sum(column) / len(column)) for column in zip(*logs, strict=True)))


def compare_case(new: dict[str, Any], old: dict[str, Any], threshold: float) -> Line:
    """The verdict on one case that both runs hold."""
    change, relative = _change(new["ours"], old["ours"]), _relative(new, old)
    verdict = change.verdict(threshold)
    if relative is not None and relative.verdict(threshold) != verdict:
        verdict = "can not tell"
    return Line(new["group"], new["case"], verdict, change, relative)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Line]:
    """The verdicts on all cases that both runs hold.

    Raises:
        ValueError: the runs are of different machines or versions of the format, or share no case.
    """
    for key in ("schema_version", *MACHINE):
        if old.get(key) != new.get(key):
            raise ValueError(
                f"{key} is {old.get(key)!r} in the old run and {new.get(key)!r} in the new one: "
                "only runs of the same machine and threads compare"
            )
    before = {(case["group"], case["case"]): case for case in old["cases"]}
    lines = [
        compare_case(case, before[key], THRESHOLDS.get(case["group"], OTHERS))
        for case in new["cases"]
        if (key := (case["group"], case["case"])) in before
    ]
    if not lines:
        raise ValueError("the two runs share no case")
    return lines


def report(lines: list[Line], old: dict[str, Any], new: dict[str, Any]) -> str:
    """The verdicts as text, group by group, and a summary."""
    out, group = [], ""
    for line in lines:
        if line.group != group:
            group = line.group
            threshold = THRESHOLDS.get(group, OTHERS)
            out.append(f"{group} (counts from {threshold:.2f} times on)")
        change = f"{line.change.median:.2f} ({line.change.low:.2f} to {line.change.high:.2f})"
        against = f", against references {line.relative.median:.2f}" if line.relative else ""
        out.append(f"  {line.verdict:12}  {change}{against}  {line.case}")
    versions = {
        name: (was, new["versions"].get(name))
        for name, was in old["versions"].items()
        if new["versions"].get(name) != was
    }
    out += [f"{name}: {was} before, {now} now" for name, (was, now) in versions.items()]
    counts = {v: sum(line.verdict == v for line in lines) for v in Verdict.__args__}  # type: ignore[attr-defined]
    out.append(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    left = {(c["group"], c["case"]) for c in old["cases"]} ^ {
        (c["group"], c["case"]) for c in new["cases"]
    }
    out += [f"in one of the runs alone: {len(left)} cases"] if left else []
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> int:
    """0 where nothing is slower, 1 where something is, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args(arguments)
    try:
        old, new = (json.loads(path.read_text()) for path in (given.old, given.new))
        lines = compare(old, new)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(report(lines, old, new))
    return int(any(line.verdict == "slower" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
