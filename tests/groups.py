"""The groups of tests for pytest-xdist, and their order: the longest group starts first."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from durations import key_of_node, read_durations

TESTS = Path(__file__).parent
SLURM = "slurm"
LARGE = ("training/test_real_data_sets.py",)
"""Files whose tests take up to 2.6 GB. They run in the process of the cluster's tests, whose jobs
take as much, so that both are never in memory together."""
SLOW_SECONDS = 20.0
"""Assumed duration of a slow test that is not in ``durations.json``."""


def choose_group(item: pytest.Item) -> str:
    """The group of a test, which one process runs: its file, or all tests of the SLURM cluster."""
    path = item.path.relative_to(TESTS) if item.path.is_relative_to(TESTS) else item.path
    is_in_cluster = path.parts[:2] == ("slurm", "testbed")
    return SLURM if is_in_cluster or path.as_posix() in LARGE else str(path)


def sum_durations(items: list[pytest.Item]) -> Counter[str]:
    """Group -> its duration in seconds, as far as known.

    The tests of SLURM count as the longest group. They mostly wait, while the other process runs
    all other tests.
    """
    durations = read_durations()
    seconds: Counter[str] = Counter()
    for item in items:
        unknown = SLOW_SECONDS if item.get_closest_marker("slow") else 0.0
        seconds[choose_group(item)] += durations.get(key_of_node(item.nodeid), unknown)
    if SLURM in seconds:
        seconds[SLURM] = math.inf  # type: ignore[assignment]
    return seconds


def sort_by_group(items: list[pytest.Item]) -> None:
    """Sort tests by the durations of their groups, so that no process is alone with a long one.

    The tests of a group keep their order and stay together.
    """
    seconds = sum_durations(items)
    first = {choose_group(item): number for number, item in reversed(list(enumerate(items)))}

    def key(item: pytest.Item) -> tuple[float, int]:
        group = choose_group(item)
        return -seconds[group], first[group]

    items.sort(key=key)
