"""One folder of small data for all tests here; a lab for each; no limits of hypothesis on time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from launch.lab import Lab

# Before the tests are imported: they keep the settings of that moment.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder; the first run makes the data in it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def lab(tmp_path: Path, data: Path) -> Iterator[Lab]:
    """Empty folders for one test."""
    lab = Lab(tmp_path, data)
    yield lab
    lab.end_processes()
