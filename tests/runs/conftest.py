"""Fixtures of the tests of run folders and records."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.conftest import lab

from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.runs.folder import RunFolder
from runs.run_folders import SPEC

__all__ = ["lab"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The folder of a run that never started."""
    folder = RunFolder(tmp_path / run_id(SPEC))
    folder.create(to_plain(SPEC), {"threads": 1})
    return folder
