"""Fixtures: one data folder for all tests, a harness per test, no time limits of hypothesis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from launch.harness import Harness

# Before the import of the tests, which use the settings of that moment.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder; the first run generates the data."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def harness(tmp_path: Path, data: Path) -> Iterator[Harness]:
    """A harness with empty folders."""
    harness = Harness(tmp_path, data)
    yield harness
    harness.end_processes()
