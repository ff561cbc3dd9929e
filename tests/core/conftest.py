"""Fixtures: one torch thread for each test, and a fork server that has imported torch."""

from __future__ import annotations

import pytest
from forked import TORCH, ForkServer, fork_server  # noqa: F401  a fixture
from threads import one_thread  # noqa: F401  a fixture


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(fork_server: ForkServer) -> None:  # noqa: F811
    """Start the imports of the fork server while the first tests run."""
    fork_server.prepare(TORCH)
