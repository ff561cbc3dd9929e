"""A SLURM cluster for the tests of this folder: one a session, emptied after every test."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "slurm"))

from testbed import Testbed, missing

RUNNING = "PROTOSEG_TESTBED"
"""Names the folder of a testbed that runs already: it is used, emptied after every test and left
running. Not SLURM_CONF: these tests kill nodes, and that variable may name anybody's cluster."""


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """The cluster itself, whatever state the last test left it in."""
    if folder := os.environ.get(RUNNING):
        yield Testbed(folder)
        return
    if problem := missing():
        pytest.skip(f"no SLURM to test with: {problem}")
    # Not pytest's own temporary folder: its name is too long for the sockets.
    testbed = Testbed(tempfile.mkdtemp(prefix="slurm-"))
    try:
        yield testbed.up()
    finally:
        testbed.down()


@pytest.fixture
def cluster(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A whole and empty cluster, and SLURM_CONF set to it."""
    for name in os.environ:
        if name.startswith(("SLURM", "SBATCH", "SQUEUE", "SACCT")):
            monkeypatch.delenv(name)
    for name, value in testbed.env.items():
        monkeypatch.setenv(name, value)
    testbed.restore()
    yield testbed
    testbed.restore()
