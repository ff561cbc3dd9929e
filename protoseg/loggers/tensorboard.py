"""The logger ``tensorboard``: event files in ``RUN_FOLDER/tensorboard``.

``tensorboard --logdir RUNS`` then shows all runs by their ids. The event files are written with
TensorBoard's own writer, without torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from protoseg.loggers.interface import RunInfo

FOLDER = "tensorboard"
FLUSH_SECONDS = 10


class TensorBoardLogger:
    """Writes scalars ``train/NAME`` and ``evaluation/NAME``, and the spec as the text ``config``.

    A resumed run continues the folder with another file. Its first event marks the iteration of the
    checkpoint: TensorBoard drops the points after it, because they are logged again.
    """

    def start(self, run: RunInfo) -> None:
        """Open an event file."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event_module, self._summary_module = event_pb2, summary_pb2
        folder = str(run.folder / FOLDER)
        self._writer = EventFileWriter(folder, flush_secs=FLUSH_SECONDS)
        log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add_event(run.start + 1, session_log=log)
        self._add_text("config", run)

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write one scalar for each value."""
        self._add_scalars(iteration, "train", values)

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar for each metric."""
        self._add_scalars(iteration, "evaluation", metrics)
        self._writer.flush()

    def finish(self, reason: str) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _add_scalars(self, iteration: int, group: str, values: Mapping[str, float]) -> None:
        summary = self._summary_module.Summary
        scalars = [
            summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._add_event(iteration, summary=summary(value=scalars))

    def _add_text(self, tag: str, run: RunInfo) -> None:
        """Write the spec in the form of TensorBoard's text plugin: a string of Markdown."""
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        spec = json.dumps(run.spec, indent=1)
        text = f"{run.run_id}\n\n```\n{spec}\n```"
        summary = self._summary_module.Summary
        value = summary.Value(
            tag=tag,
            metadata=create_summary_metadata(display_name=tag, description=""),
            tensor=make_tensor_proto(text.encode()),
        )
        self._add_event(run.start + 1, summary=summary(value=[value]))

    def _add_event(self, iteration: int, **content: Any) -> None:
        event = self._event_module.Event(step=iteration, wall_time=time.time(), **content)
        self._writer.add_event(event)
