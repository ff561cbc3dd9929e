"""Fixtures of the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Empty folders of records, runs and published numbers."""
    return Lab(tmp_path)
