"""Durations of tests: reads pytest's JUnit XML files, writes and reads ``durations.json``.

``make durations`` runs every test in one process and updates the file.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
RECORDED_SECONDS = 1.0
"""Shorter tests are not recorded: they always fit into the first tier."""


def read_durations() -> dict[str, float]:
    """Test -> its duration in seconds without parallel tests, with set-up and teardown."""
    durations: dict[str, float] = json.loads(FILE.read_text(encoding="utf-8"))["seconds"]
    return durations


def key_of_test(classname: str, name: str) -> str:
    """The key of a test: ``training.test_worker::test_name[parameter]``."""
    return f"{classname.removeprefix('tests.')}::{name}"


def without_group(node_id: str) -> str:
    """The node id without the ``@`` and the group that xdist appends."""
    parameters_end = node_id.rfind("]")
    name, at, _ = node_id.rpartition("@")
    return name if at and len(name) > parameters_end else node_id


def key_of_node(node_id: str) -> str:
    """The key of the test with a node id."""
    path, _, name = without_group(node_id).partition("::")
    return key_of_test(path.removesuffix(".py").replace("/", "."), name)


def durations_of(report: Path) -> dict[str, float]:
    """The durations in a JUnit XML file."""
    cases = ElementTree.parse(report).iter("testcase")
    return {
        key_of_test(str(case.get("classname")), str(case.get("name"))): float(case.get("time") or 0)
        for case in cases
    }


def main(reports: list[str]) -> None:
    """Merge JUnit XML files into ``durations.json``."""
    durations: dict[str, float] = {}
    for report in reports:
        durations |= durations_of(Path(report))
    long = {
        key: round(value, 1)
        for key, value in sorted(durations.items())
        if value >= RECORDED_SECONDS
    }
    content = {"tests": len(durations), "recorded_above_seconds": RECORDED_SECONDS, "seconds": long}
    FILE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
