"""The backbone `tiny` with a training that pauses, so that tests can kill it at an iteration.

The training writes its process id to ``PAUSE_FOLDER/RUN_ID.paused`` after iteration ``PAUSE_AFTER``
of its run; with ``PAUSE_AFTER=0`` it pauses while the model is built, without a file. It continues
when a stop signal arrives, or when the file ``PAUSE_FOLDER/go`` exists.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


class PausingNet:
    """Builds a `TinyNet`, and installs the pause in the training loop."""

    def __new__(cls, **settings: Any) -> Any:
        from protoseg.models.tiny_backbone import TinyNet

        iteration, folder = int(os.environ["PAUSE_AFTER"]), Path(os.environ["PAUSE_FOLDER"])
        if iteration:
            install_pause(iteration, folder)
        while not iteration and not (folder / "go").exists():
            time.sleep(0.02)
        return TinyNet(**settings)


def install_pause(iteration: int, folder: Path) -> None:
    """Make every training of this process pause after an iteration and its checkpoint."""
    from protoseg.training.loop import TrainingLoop

    report = TrainingLoop._report

    def pause(loop: TrainingLoop, done: int) -> None:
        report(loop, done)
        if done != iteration:
            return
        path = folder / f"{loop.folder.run_id}.paused"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(str(os.getpid()))
        unfinished.replace(path)
        while loop.stop.signal_number is None and not (folder / "go").exists():
            time.sleep(0.02)

    TrainingLoop._report = pause  # type: ignore[method-assign]
