"""Empty folders for the golden tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from golden.collect import use_empty_folders


@pytest.fixture
def empty_folders() -> Iterator[Path]:
    """No runs, no data, no settings of this machine; the current folder is the checkout."""
    with use_empty_folders() as folder:
        yield folder
