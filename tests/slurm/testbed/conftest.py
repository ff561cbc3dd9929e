"""Fixtures: one SLURM cluster per session, restored after every test."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "slurm"))

from testbed.conf import MEMORY_CGROUPS, Shape
from testbed.daemons import FOREIGN
from testbed.testbed import Testbed, find_problem

RUNNING = "PROTOSEG_TESTBED"
"""Variable with the folder of a running testbed, which the tests use, empty and leave running. Not
SLURM_CONF: these tests kill nodes, and that variable may name a cluster in use."""


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """The cluster in the state of the last test."""
    if folder := os.environ.get(RUNNING):
        yield Testbed(folder)
        return
    if problem := find_problem():
        pytest.skip(f"no SLURM to test with: {problem}")
    # pytest's temporary folder has a name that is too long for the sockets.
    testbed = Testbed(tempfile.mkdtemp(prefix="slurm-"))
    try:
        yield testbed.up()
    finally:
        testbed.down()


@pytest.fixture(scope="session")
def strict_testbed() -> Iterator[Testbed]:
    """A cluster of one node on which the kernel limits memory."""
    if problem := find_problem():
        pytest.skip(f"no SLURM to test with: {problem}")
    if not os.access(MEMORY_CGROUPS / "release_agent", os.W_OK):
        pytest.skip(f"no memory cgroups (version 1) to write to at {MEMORY_CGROUPS}")
    shape = Shape(nodes=1, cgroups=True, name=f"strict{os.getpid()}n")
    testbed = Testbed(tempfile.mkdtemp(prefix="slurm-"), shape)
    try:
        yield testbed.up()
    finally:
        testbed.down()


@pytest.fixture
def cluster(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A restored cluster, with SLURM_CONF set to it."""
    yield from _prepared(testbed, monkeypatch)


@pytest.fixture
def strict_cluster(strict_testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A restored cluster that reports OUT_OF_MEMORY; the other one does not."""
    yield from _prepared(strict_testbed, monkeypatch)


RESTORED: set[Path] = set()
"""Folders of the restored clusters."""


def _prepared(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    for name, value in testbed.env.items():
        monkeypatch.setenv(name, value)
    if testbed.folder not in RESTORED:
        testbed.restore()
    RESTORED.discard(testbed.folder)
    yield testbed
    testbed.restore()
    RESTORED.add(testbed.folder)
