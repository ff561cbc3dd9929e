"""Training that waits for the faults of a campaign, so that none comes too late (campaign.py).

`PacedNet` is the backbone `tiny` in a training that is ahead of the faults by `LEAD` at most, and
does not finish before the last one. The file that CAMPAIGN_PACE names holds the share of faults
that are done; without that variable nothing waits. A waiting run writes its iteration to a file
RUN_ID.waiting beside it.
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
"""How far a training may be while there are faults to come."""


class PacedNet:
    """Builds a `TinyNet`, and lets the training loop wait for the faults."""

    def __new__(cls, **settings: Any) -> Any:
        from protoseg.models.tiny_backbone import TinyNet

        if path := os.environ.get(VARIABLE):
            install_pace(Path(path))
        return TinyNet(**settings)


def install_pace(path: Path) -> None:
    """Let every training of this process wait for the faults; a signal to stop ends the wait."""
    from protoseg.training.loop import TrainingLoop

    report = TrainingLoop._report

    def wait(loop: TrainingLoop, iteration: int) -> None:
        report(loop, iteration)
        waiting = path.with_name(f"{loop.folder.run_id}.waiting")
        while iteration / loop.iterations > allowed(faults_done(path)):
            waiting.write_text(str(iteration))
            if loop.stop.signal_number is not None:
                return
            time.sleep(0.1)

    TrainingLoop._report = wait  # type: ignore[method-assign]


def allowed(done: float) -> float:
    """How far a training may be after a share of the faults, 0 to 1."""
    return min(done + LEAD, UNFINISHED) if done < 1 else 1.0


def faults_done(path: Path) -> float:
    """The share of faults that are done, 0 to 1."""
    with suppress(OSError, ValueError):
        return float(path.read_text())
    return 0.0


def write_faults_done(path: Path, share: float) -> None:
    """Replace the share of faults that are done."""
    unfinished = path.with_name(f"{path.name}.{threading.get_ident()}")
    unfinished.write_text(f"{share:.4f}")
    unfinished.replace(path)
