"""How the tests are shared out between the processes of `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


# Before xdist reads the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together, and so do all that need the one cluster, which mostly wait."""
    for item in items:
        path = item.path.relative_to(TESTS) if item.path.is_relative_to(TESTS) else item.path
        group = "slurm" if path.parts[0] == "slurm" else str(path)
        item.add_marker(pytest.mark.xdist_group(group))
