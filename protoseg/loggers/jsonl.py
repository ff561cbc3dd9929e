"""The logger ``jsonl``: one JSON object a line in ``RUN_FOLDER/log.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from protoseg import files
from protoseg.loggers.interface import RunInfo

FILE = "log.jsonl"


class JsonlLogger:
    """Writes ``{"event": "values", "iteration": 50, "loss": 1.23, ...}``.

    The first line has the run id and the spec (``"event": "run"``). A resumed run continues the
    file: lines of iterations after its checkpoint are removed, because they are logged again.
    """

    def start(self, run: RunInfo) -> None:
        """Open the file, without the lines after the checkpoint."""
        path = run.folder / FILE
        first = {"event": "run", "run_id": run.run_id, "spec": run.spec}
        lines = [first, *_list_kept_lines(path, run.start)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        files.write_bytes(path, text.encode())
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed by `finish`
        self._write_line({"event": "start", "iteration": run.start, "attempt": run.attempt})

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        self._write_line({"event": "values", "iteration": iteration, **values})

    def log_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Append a line."""
        self._write_line({"event": "metrics", "iteration": iteration, **metrics})

    def finish(self, reason: str) -> None:
        """Append a line with the reason, and close the file."""
        self._write_line({"event": "end", "reason": reason})
        self._file.close()

    def _write_line(self, line: Mapping[str, Any]) -> None:
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()


def _list_kept_lines(path: Path, start: int) -> Iterator[dict[str, Any]]:
    """The lines of earlier attempts up to an iteration, without the first line and torn lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except ValueError:
            continue
        is_kept = isinstance(line, dict) and line.get("event") != "run"
        if is_kept and (line.get("event") == "end" or line.get("iteration", 0) <= start):
            yield line
