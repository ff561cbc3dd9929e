"""What submitit runs, here and on a cluster: a worker on a run folder."""

from __future__ import annotations

import os
import sys


def become_worker(run_folder: str) -> None:
    """Replace this process by ``python -m protoseg.training.worker RUN_DIR``.

    Replaced rather than called: submitit's own handlers, which ignore SIGTERM, are gone, and
    signals reach the worker itself. What the worker did stands in the run folder; nothing is
    returned through submitit's pickles.
    """
    os.execv(sys.executable, [sys.executable, "-m", "protoseg.training.worker", run_folder])
