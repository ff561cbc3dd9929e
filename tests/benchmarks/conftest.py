"""The modules of benchmarks/ are scripts beside one another: their folder is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

from threads import one_thread  # noqa: F401  a fixture

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
