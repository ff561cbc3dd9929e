"""Fixtures: the scripts of benchmarks/ are importable, and a fork server has imported pytest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forked import ForkServer, fork_server  # noqa: F401  a fixture
from threads import one_thread  # noqa: F401  a fixture

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

BENCHMARK_MODULES = ("pytest", "pytest_benchmark.plugin", "ot", "protoseg.models")
"""Modules that are imported before a benchmark process is forked."""


@pytest.fixture(scope="package", autouse=True)
def _prepared_fork_server(
    request: pytest.FixtureRequest,
    fork_server: ForkServer,  # noqa: F811
) -> None:
    """Start the imports of the fork server, which take seconds, while other tests run."""
    if any(item.path.name == "test_smoke.py" for item in request.session.items):
        fork_server.prepare(BENCHMARK_MODULES)
