"""A backbone whose training waits for the faults of a campaign, so that none is too late.

`PacedNet` is the backbone `tiny`. Its training is ahead of the faults by at most `LEAD`, and does
not finish before the last fault. The file in CAMPAIGN_PACE holds the share of injected faults;
without this variable nothing waits. A waiting run writes its iteration to RUN_ID.waiting in the
same folder.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protoseg.training.loop import TrainingLoop

VARIABLE = "CAMPAIGN_PACE"
LEAD = 0.25
UNFINISHED = 0.9
"""Largest progress of a training before the last fault."""


class PacedNet:
    """Builds a `TinyNet`, and makes the training loop wait for the faults."""

    def __new__(cls, **settings: Any) -> Any:
        from protoseg.models.tiny_backbone import TinyNet

        if path := os.environ.get(VARIABLE):
            install_pace(Path(path))
        return TinyNet(**settings)


def install_pace(path: Path) -> None:
    """Make every training of this process wait for the faults; a stop signal ends the wait."""
    from protoseg.training.loop import TrainingLoop

    report = TrainingLoop._report

    def wait(loop: TrainingLoop, iteration: int) -> None:
        report(loop, iteration)
        waiting = path.with_name(f"{loop.folder.run_id}.waiting")
        while iteration / loop.iterations > allowed_progress(read_faults_done(path)):
            waiting.write_text(str(iteration))
            if loop.stop.signal_number is not None:
                return
            time.sleep(0.1)

    TrainingLoop._report = wait  # type: ignore[method-assign]


def allowed_progress(done: float) -> float:
    """Return the allowed progress of a training (0 to 1) after a share of the faults."""
    return min(done + LEAD, UNFINISHED) if done < 1 else 1.0


def read_faults_done(path: Path) -> float:
    """Read the share of injected faults, 0 to 1."""
    with suppress(OSError, ValueError):
        return float(path.read_text())
    return 0.0


def write_faults_done(path: Path, share: float) -> None:
    """Write the share of injected faults."""
    unfinished = path.with_name(f"{path.name}.{threading.get_ident()}")
    unfinished.write_text(f"{share:.4f}")
    unfinished.replace(path)
