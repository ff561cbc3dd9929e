"""Test tiers, the distribution of tests over processes, and the hygiene check of the suite."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from durations import without_group
from groups import choose_group, sort_by_group
from hygiene import HygieneCheck
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
OWN_FOLDERS = (TESTS, TESTS.parent / "benchmarks", TESTS.parent / "slurm")
"""Folders of modules, besides protoseg, whose warnings are errors."""
CLUSTER_FIXTURES = {"testbed", "strict_testbed"}
"""Fixtures that start a real SLURM; tests that use one belong to the second tier."""

KEPT_BYTES = 10**9
"""Resident memory of a process of tests above which freed memory is returned."""

settings.register_profile("protoseg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("protoseg")  # no deadline: the result must not depend on the machine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", f"error:::({'|'.join(own_modules())})(\\.|$)")
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        processes = getattr(config.option, "numprocesses", None) or 0
        config.pluginmanager.register(HygieneCheck(processes), "hygiene")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A background job of a script ignores it, and so would every process that a test starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def returned_memory() -> Generator[None, None, None]:
    """Return freed memory to the system after the tests of a file.

    A network and its optimiser refer to each other, and glibc keeps what they free. Collecting
    takes a second, so it is done only if much is kept.
    """
    yield
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > KEPT_BYTES:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


# xdist reads the marks, and pytest deselects tests by them, so they are set before other hooks run.
# The tests are sorted after these hooks, when only those remain that will run.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark tests that need a cluster as slow, give each test its group, and sort by group."""
    for item in items:
        if CLUSTER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(choose_group(item)))
    yield
    sort_by_group(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    """Record the coverage of each test separately, for mutation testing."""
    if os.environ.get("PROTOSEG_COVERAGE_BY_TEST"):
        from coverage import Coverage

        current = Coverage.current()
        if current is not None:
            current.switch_context(without_group(nodeid))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Stop the fork server before the hygiene check."""
    if "forked" in sys.modules:
        sys.modules["forked"].SERVER_OF_SESSION.stop()


def own_modules() -> list[str]:
    """Names of the top-level modules and packages in tests/, benchmarks/ and slurm/."""
    modules = {path.stem for folder in OWN_FOLDERS for path in folder.glob("*.py")}
    packages = {path.parent.name for folder in OWN_FOLDERS for path in folder.glob("*/__init__.py")}
    return sorted(modules | packages)
