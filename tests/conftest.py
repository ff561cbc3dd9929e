"""Test tiers, the distribution of tests over processes, and the check of what they leave behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from durations import without_group
from hygiene import HygieneCheck
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
OWN_FOLDERS = (TESTS, TESTS.parent / "benchmarks", TESTS.parent / "slurm")
"""Folders of modules besides protoseg whose warnings are errors."""
CLUSTER_FIXTURES = {"testbed", "strict_testbed"}
"""Fixtures that start a real SLURM; what uses one belongs to the second tier."""

settings.register_profile("protoseg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("protoseg")  # no example depends on the speed of the machine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", f"error:::({'|'.join(own_modules())})(\\.|$)")
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        config.pluginmanager.register(HygieneCheck(), "hygiene")


# Before xdist reads the marks, and before pytest deselects by them.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a cluster, and share all tests out by group."""
    for item in items:
        if CLUSTER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    # The longest group first: it mostly waits, and the other process runs all else beside it.
    items.sort(key=lambda item: group_of(item) != "slurm")


def group_of(item: pytest.Item) -> str:
    """Tests of a file stay together, and so do all that need the one SLURM cluster."""
    path = item.path.relative_to(TESTS) if item.path.is_relative_to(TESTS) else item.path
    return "slurm" if path.parts[:2] == ("slurm", "testbed") else str(path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    """For mutation testing: record the coverage of each test apart."""
    if os.environ.get("PROTOSEG_COVERAGE_BY_TEST"):
        from coverage import Coverage

        current = Coverage.current()
        if current is not None:
            current.switch_context(without_group(nodeid))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """End the process that tests fork others from, before the check of what is left."""
    if "forked" in sys.modules:
        sys.modules["forked"].SERVER_OF_SESSION.stop()


def own_modules() -> list[str]:
    """Top-level names of the modules and packages of tests/, benchmarks/ and slurm/."""
    modules = {path.stem for folder in OWN_FOLDERS for path in folder.glob("*.py")}
    packages = {path.parent.name for folder in OWN_FOLDERS for path in folder.glob("*/__init__.py")}
    return sorted(modules | packages)
